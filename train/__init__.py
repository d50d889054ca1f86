"""Training of the networks that depth_ros runs: data in, losses, networks, export out."""
