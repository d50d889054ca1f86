"""CPU inference with OpenVINO."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from depth_ros.inference.contract import ModelContract
from depth_ros.inference.engine import Engine, EngineError

if TYPE_CHECKING:
    import openvino


class OpenVinoEngine(Engine):
    """CPU inference with OpenVINO."""

    backend = 'openvino'

    def __init__(self, path: Path, contract: ModelContract, threads: int) -> None:
        super().__init__(path, contract, threads)
        core = _core()
        self._request: openvino.InferRequest | None = core.compile_model(
            core.read_model(path), 'CPU', self._settings()
        ).create_infer_request()

    def _settings(self) -> dict[str, Any]:
        return {
            'PERFORMANCE_HINT': 'LATENCY',
            'INFERENCE_NUM_THREADS': self.threads,
            'NUM_STREAMS': 1,
            # Else OpenVINO silently takes bf16 where the processor has it, which shifts the depths.
            'INFERENCE_PRECISION_HINT': 'f32',
        }

    def _run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self._request is None:
            raise EngineError('the engine is closed; load it again')
        request = self._request
        request.infer(dict(inputs), share_inputs=True)
        return {name: request.get_tensor(name).data for name in self.contract.outputs}

    def close(self) -> None:
        """Release the network."""
        self._request = None


@functools.cache
def _core() -> openvino.Core:
    # One for the life of the process. Each core replaces the thread's stack for signal handlers
    # with one of its own, which it frees when it is deleted. With several cores, deleted in any
    # order, the thread is left with a freed stack, and the next signal kills the process.
    import openvino

    return openvino.Core()
