"""How long losses, networks and a training step take on a processor."""
