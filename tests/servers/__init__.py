"""The servers that tests talk to: those of `make brokers`, which stay, and private ones, which end with their test."""
