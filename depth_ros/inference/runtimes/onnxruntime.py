"""CPU inference with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from depth_ros.inference.contract import ModelContract
from depth_ros.inference.engine import Engine, EngineError

if TYPE_CHECKING:
    import onnxruntime


class OnnxRuntimeEngine(Engine):
    """CPU inference with ONNX Runtime."""

    backend = 'onnxruntime'

    def __init__(self, path: Path, contract: ModelContract, threads: int) -> None:
        super().__init__(path, contract, threads)
        import onnxruntime

        self._session: onnxruntime.InferenceSession | None = onnxruntime.InferenceSession(
            str(path), self._options(), providers=['CPUExecutionProvider']
        )

    def _options(self) -> onnxruntime.SessionOptions:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        # Spinning threads save a millisecond on an idle machine, but on a busy one, as a robot is,
        # they take the processor from everything else.
        options.add_session_config_entry('session.intra_op.allow_spinning', '0')
        options.log_severity_level = 3
        return options

    def _run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self._session is None:
            raise EngineError('the engine is closed; load it again')
        values = self._session.run(list(self.contract.outputs), dict(inputs))
        return {
            name: np.asarray(value)
            for name, value in zip(self.contract.outputs, values, strict=True)
        }

    def close(self) -> None:
        """Release the session."""
        self._session = None
