"""What the nodes share of ROS 2: transport, parameters, messages, player, recorder."""
