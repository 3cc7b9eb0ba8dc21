"""From one tail per queue to every client: the hub."""
