"""What brokers with a server share."""
