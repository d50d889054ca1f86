"""The time that each layer of a network takes, measured with each runtime."""

from __future__ import annotations

import json
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from depth_ros.inference.contract import read_contract
from depth_ros.inference.engine import Engine, EngineError
from depth_ros.inference.engine_file import ENGINE_SUFFIX, engine_files, shell_command
from depth_ros.inference.loader import load_built_engine, load_engine
from depth_ros.inference.runtimes.onnxruntime import OnnxRuntimeEngine
from depth_ros.inference.runtimes.openvino import OpenVinoEngine
from depth_ros.inference.runtimes.tensorrt import TensorRtEngine

TENSORRT = TensorRtEngine.backend


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How to measure.

    Attributes:
        threads: threads of an inference.
        runs: measured inferences.
        warmup: inferences before them.
    """

    threads: int = 2
    runs: int = 100
    warmup: int = 10


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer of a network as the runtime computes it: name, kind, and mean time, ms."""

    name: str
    kind: str
    ms: float


def load_for_bench(path: Path, backend: str, threads: int) -> Engine:
    """Load a model with a runtime, or the engine of a model with TensorRT.

    Raises:
        ContractError, EngineError: if it cannot be loaded.
    """
    if backend != TENSORRT:
        return load_engine(path, backend, threads)
    if path.suffix == ENGINE_SUFFIX:
        return load_engine(path, 'auto', threads)
    if not engine_files(path):
        raise EngineError(
            f"'{path}' has no engine; build it: {shell_command('build_engine', path)}"
        )
    return load_built_engine(path, threads)


def noise_inputs(engine: Engine) -> dict[str, np.ndarray]:
    """Inputs of noise for an engine, the same each time."""
    rng = np.random.default_rng(0)
    shapes = engine.contract.tensor_shapes()
    return {
        name: rng.integers(0, 255, shapes[name][1], np.uint8) for name in engine.contract.inputs
    }


def measure_layers(path: Path, backend: str, effort: Effort) -> tuple[Layer, ...]:
    """Measure the layers of a model, in the order of computation.

    Raises:
        EngineError: if the runtime cannot load or run the model.
    """
    if backend not in _PROFILERS:
        raise EngineError(f'layers cannot be measured with {backend}')
    try:
        engine = _PROFILERS[backend](path, effort)
    except EngineError:
        raise
    except Exception as error:  # each runtime has its own exception types
        raise EngineError(f"{backend} cannot load '{path}': {error}") from error
    try:
        return engine.layers()
    finally:
        engine.close()


class _OnnxRuntimeProfiler(OnnxRuntimeEngine):
    def __init__(self, path: Path, effort: Effort) -> None:
        self._effort = effort
        self._folder = tempfile.TemporaryDirectory(prefix='depth_ros_profile_')
        super().__init__(path, read_contract(path), effort.threads)

    def _options(self) -> Any:
        options = super()._options()
        options.enable_profiling = True
        options.profile_file_prefix = f'{self._folder.name}/profile'
        return options

    def layers(self) -> tuple[Layer, ...]:
        inputs = noise_inputs(self)
        for _ in range(self._effort.warmup + self._effort.runs):
            self.infer(inputs)
        assert self._session is not None
        events = json.loads(Path(self._session.end_profiling()).read_text())
        times: dict[str, list[float]] = {}
        kinds = {}
        for event in events:
            name = event['name'].removesuffix('_kernel_time')
            if event['cat'] == 'Node' and name != event['name']:
                times.setdefault(name, []).append(event['dur'] / 1e3)
                kinds[name] = event['args']['op_name']
        return _layers(times, kinds, self._effort.runs)

    def close(self) -> None:
        super().close()
        self._folder.cleanup()


class _OpenVinoProfiler(OpenVinoEngine):
    def __init__(self, path: Path, effort: Effort) -> None:
        self._effort = effort
        super().__init__(path, read_contract(path), effort.threads)

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), 'PERF_COUNT': True}

    def layers(self) -> tuple[Layer, ...]:
        inputs = noise_inputs(self)
        times: dict[str, list[float]] = {}
        kinds = {}
        for _ in range(self._effort.warmup):  # includes what is done only once
            self.infer(inputs)
        for _ in range(self._effort.runs):
            self.infer(inputs)
            assert self._request is not None
            for info in self._request.profiling_info:
                if info.status.name == 'EXECUTED':
                    times.setdefault(info.node_name, []).append(
                        1e3 * info.real_time.total_seconds()
                    )
                    kinds[info.node_name] = info.node_type
        return _layers(times, kinds, self._effort.runs)


class _TensorRtProfiler(TensorRtEngine):
    def __init__(self, path: Path, effort: Effort) -> None:
        self._effort = effort
        with closing(load_for_bench(path, TENSORRT, effort.threads)) as engine:
            file = engine.path  # the same file that `measure` takes
        super().__init__(file, effort.threads, source=None if file == path else path)
        self._times: dict[str, list[float]] = {}
        times, trt = self._times, self._trt

        class Profiler(trt.IProfiler):
            def __init__(self) -> None:
                trt.IProfiler.__init__(self)

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                times.setdefault(layer_name, []).append(float(ms))

        self._profiler = Profiler()  # the context does not keep it
        self._context.profiler = self._profiler

    def _record(self, resources: Any) -> None:
        """Record no CUDA graph: the profiler sees only layers that are enqueued one by one."""

    def layers(self) -> tuple[Layer, ...]:
        inputs = noise_inputs(self)
        for _ in range(self._effort.warmup + self._effort.runs):
            self.infer(inputs)
        return _layers(self._times, {}, self._effort.runs)


_PROFILERS = {
    profiler.backend: profiler
    for profiler in (_OnnxRuntimeProfiler, _OpenVinoProfiler, _TensorRtProfiler)
}


def _layers(times: dict[str, list[float]], kinds: dict[str, str], runs: int) -> tuple[Layer, ...]:
    """Layers with their mean times.

    Args:
        times: times of each layer, ms, of all inferences.
        kinds: kinds of the layers.
        runs: how many inferences count, from the end.
    """
    return tuple(
        Layer(name=name, kind=kinds.get(name, ''), ms=sum(values[-runs:]) / runs)
        for name, values in times.items()
    )
