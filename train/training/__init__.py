"""The training itself: configuration, the Lightning system, pictures."""
