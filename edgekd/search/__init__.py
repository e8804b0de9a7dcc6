"""Many networks: how fast each would be on a device, and which is the best."""
