"""From a checkpoint to the files that depth_ros runs."""
