"""Pure maths of cameras, motion, depth and metrics: numpy and OpenCV only."""
