"""How good depth, labels and trajectories are, on plain arrays: no ROS, no files, no printing."""
