"""The hub without a server: logs in memory, clients that only record."""
