"""Inference runtimes, one file each.

To add a runtime that reads ONNX files, write its file here and name its class in
:data:`ONNX_RUNTIMES`: parameters, command line options, the self-test and benches follow.
"""

from __future__ import annotations

from depth_ros.inference.engine import Engine
from depth_ros.inference.runtimes.onnxruntime import OnnxRuntimeEngine
from depth_ros.inference.runtimes.openvino import OpenVinoEngine

ONNX_RUNTIMES: dict[str, type[Engine]] = {
    runtime.backend: runtime for runtime in (OpenVinoEngine, OnnxRuntimeEngine)
}
"""Runtimes that read ONNX files, by name, in the order of preference."""
