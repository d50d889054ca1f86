"""Export: turn a checkpoint into the model files that depth_ros runs."""
