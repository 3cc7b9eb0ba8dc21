"""The systems measured beside queuecast. Nothing here imports queuecast."""
