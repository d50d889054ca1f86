"""Making foreign ONNX networks models of depth_ros."""
