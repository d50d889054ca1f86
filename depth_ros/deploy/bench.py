"""How fast models run on this machine: `bench_engine MODEL...`.

Each model is measured with every runtime installed, each time in a process of its own, on images of
noise: latency, throughput, processor time, time to load, and memory. TensorRT runs the engine of a
model that `build_engine` has made.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from depth_ros.files import check_writable, write_file
from depth_ros.inference.contract import ContractError, read_contract
from depth_ros.inference.engine import Engine, EngineError
from depth_ros.inference.engine_file import ENGINE_SUFFIX, engine_files, shell_command
from depth_ros.inference.loader import installed_backends, load_built_engine, load_engine
from depth_ros.inference.runtimes.onnxruntime import OnnxRuntimeEngine
from depth_ros.inference.runtimes.openvino import OpenVinoEngine
from depth_ros.inference.runtimes.tensorrt import (
    TensorRtEngine,
    check_machine,
    cuda_call,
    cuda_module,
)

TENSORRT = TensorRtEngine.backend


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer of a network as the runtime computes it: name, kind, and mean time, ms."""

    name: str
    kind: str
    ms: float


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One model on one runtime.

    Attributes:
        path, name: of the model.
        width, height: network size, pixels.
        image_size: (width, height) of the images that it takes and resizes itself; ``None`` where
            they are of the network's size.
        backend: the runtime.
        threads: threads of an inference.
        load_s: time to load or compile the model, without that to import the runtime, seconds.
        p50_ms, p90_ms, p99_ms, max_ms: latency of an inference, inputs and outputs in the host's
            memory.
        per_second: inferences a second, one after the other.
        cpu_ms: processor time of an inference, of all threads together.
        memory_mb: largest memory of the process.
        model_mb: how much of it came with loading and running the model.
        gpu_mb: memory of the GPU that the engine takes; `None` without a GPU.
        file_mb: size of the file that is run.
        layers: in the order of computation; empty unless asked for.
    """

    path: str
    name: str
    width: int
    height: int
    image_size: tuple[int, int] | None
    backend: str
    threads: int
    load_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    per_second: float
    cpu_ms: float
    memory_mb: float
    model_mb: float
    gpu_mb: float | None
    file_mb: float
    layers: tuple[Layer, ...] = ()


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


def bench(
    models: Iterable[Path], effort: Effort, profile: bool = False, bar: bool = True
) -> tuple[list[Measurement], list[str]]:
    """Measure models with every runtime of this machine, each in a fresh process.

    Args:
        models: ONNX files with a contract, or engine files.
        effort: how to measure.
        profile: whether to measure the layers, too, in another run.
        bar: whether to show progress.

    Returns:
        What was measured, and what was not, with the reason.

    Raises:
        ContractError: if an ONNX file cannot be used.
    """
    work = [(path, backend) for path in models for backend in _backends(path)]
    found, missing = [], []
    for path, backend in (progress := tqdm(work, unit='model', disable=None if bar else True)):
        progress.set_postfix_str(f'{path.name} with {backend}')
        try:
            found.append(_in_process(measure, path, backend, effort))
            if profile:
                layers = _in_process(measure_layers, path, backend, effort)
                found[-1] = replace(found[-1], layers=layers)
        except EngineError as error:
            reason = f'{backend}: {error}'
            if reason not in missing:
                missing.append(reason)
    return found, missing


def _backends(path: Path) -> tuple[str, ...]:
    if path.suffix == ENGINE_SUFFIX:
        return (TENSORRT,)
    read_contract(path)
    return (*installed_backends(), TENSORRT)


def _in_process(function: Any, *arguments: Any) -> Any:
    """Call a function in a fresh process, so that memory and threads are of this call alone."""
    # Not forked: inference runtimes do not survive it.
    with ProcessPoolExecutor(1, get_context('spawn'), _end_with_parent) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool as error:
            raise EngineError(
                'the process of the measurement was killed: the runtime has crashed, '
                'or there is too little memory'
            ) from error


def _end_with_parent() -> None:
    """End this process when the one that started it is killed, which else would wait for ever."""

    def wait() -> None:
        parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def measure(path: Path, backend: str, effort: Effort) -> Measurement:
    """Measure a model in this process, which should have done nothing else.

    Raises:
        EngineError: if the runtime is not installed, or cannot load or run the model.
    """
    gpu_mb = None
    if backend == TENSORRT:
        check_machine()
        before = _free_gpu_memory()
    else:
        try:
            importlib.import_module(backend)
        except Exception as error:  # such as one that was built for another numpy
            raise EngineError(
                f'{backend} is installed, but cannot be imported: {error}; install it again'
            ) from error
    memory = _peak_memory()
    start = time.perf_counter()
    engine = _load(path, backend, effort.threads)
    load_s = time.perf_counter() - start
    if backend == TENSORRT:
        # A Jetson's free memory is the whole system's, where others may release some meanwhile.
        gpu_mb = max(0, before - _free_gpu_memory()) / 1e6
    inputs = _noise(engine)
    for _ in range(effort.warmup):
        engine.infer(inputs)
    times = np.empty(effort.runs)
    cpu = time.process_time()
    for index in range(effort.runs):
        start = time.perf_counter()
        engine.infer(inputs)
        times[index] = time.perf_counter() - start
    cpu = time.process_time() - cpu
    engine.close()
    contract = engine.contract
    p50, p90, p99 = (1e3 * np.percentile(times, (50, 90, 99))).tolist()
    return Measurement(
        path=str(path),
        name=contract.name,
        width=contract.input_width,
        height=contract.input_height,
        image_size=contract.image_size,
        backend=backend,
        threads=effort.threads,
        load_s=load_s,
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        max_ms=1e3 * float(times.max()),
        per_second=float(1 / times.mean()),
        cpu_ms=1e3 * cpu / effort.runs,
        memory_mb=_peak_memory(),
        model_mb=_peak_memory() - memory,
        gpu_mb=gpu_mb,
        file_mb=engine.path.stat().st_size / 1e6,
    )


def _load(path: Path, backend: str, threads: int) -> Engine:
    if backend != TENSORRT:
        return load_engine(path, backend, threads)
    if path.suffix == ENGINE_SUFFIX:
        return load_engine(path, 'auto', threads)
    if not engine_files(path):
        raise EngineError(
            f"'{path}' has no engine; build it: {shell_command('build_engine', path)}"
        )
    return load_built_engine(path, threads)


def _noise(engine: Engine) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = engine.contract.tensor_shapes()
    return {
        name: rng.integers(0, 255, shapes[name][1], np.uint8) for name in engine.contract.inputs
    }


def _peak_memory() -> float:
    """The largest memory that this process has had, MB."""
    # Not getrusage, which counts the parent's memory too, from before this program was started.
    text = Path('/proc/self/status').read_text()
    line = next(line for line in text.splitlines() if line.startswith('VmHWM:'))
    return int(line.split()[1]) * 1024 / 1e6


def _free_gpu_memory() -> int:
    return cuda_call(cuda_module(), 'cudaMemGetInfo')


# Layers -------------------------------------------------------------------------------------------


def measure_layers(path: Path, backend: str, effort: Effort) -> tuple[Layer, ...]:
    """Measure the layers of a model, in the order of computation.

    Raises:
        EngineError: if the runtime cannot load or run the model.
    """
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
        inputs = _noise(self)
        for _ in range(self._effort.warmup + self._effort.runs):
            self.infer(inputs)
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
        inputs = _noise(self)
        times: dict[str, list[float]] = {}
        kinds = {}
        for _ in range(self._effort.warmup):  # which also does what is done only once
            self.infer(inputs)
        for _ in range(self._effort.runs):
            self.infer(inputs)
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
        with closing(_load(path, TENSORRT, effort.threads)) as engine:
            file = engine.path  # the one that `measure` takes, too
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
        """Without a CUDA graph: only what is enqueued layer by layer is measured so."""

    def layers(self) -> tuple[Layer, ...]:
        inputs = _noise(self)
        for _ in range(self._effort.warmup + self._effort.runs):
            self.infer(inputs)
        return _layers(self._times, {}, self._effort.runs)


_PROFILERS = {
    profiler.backend: profiler
    for profiler in (_OnnxRuntimeProfiler, _OpenVinoProfiler, _TensorRtProfiler)
}


def _layers(times: dict[str, list[float]], kinds: dict[str, str], runs: int) -> tuple[Layer, ...]:
    """Layers from the times that each took, of which the last ones count."""
    return tuple(
        Layer(name=name, kind=kinds.get(name, ''), ms=sum(values[-runs:]) / runs)
        for name, values in times.items()
    )


# The command --------------------------------------------------------------------------------------

_COLUMNS = (
    ('p50', 'p50_ms', '.2f'),
    ('p90', 'p90_ms', '.2f'),
    ('p99', 'p99_ms', '.2f'),
    ('max', 'max_ms', '.2f'),
    ('1/s', 'per_second', '.1f'),
    ('CPU', 'cpu_ms', '.2f'),
    ('load, s', 'load_s', '.2f'),
    ('MB', 'memory_mb', '.0f'),
    ('model', 'model_mb', '.0f'),
    ('GPU', 'gpu_mb', '.0f'),
    ('file', 'file_mb', '.1f'),
)


def table(measured: Sequence[Measurement], missing: Sequence[str], effort: Effort) -> str:
    """The measurements as text for the terminal."""
    lines = [
        f'{effort.runs} inferences with {effort.threads} threads. ms: latency, and CPU, the '
        'time of all cores. MB: memory of the',
        'process at its largest, of it for the model, of the GPU, and size of the file.',
    ]
    if measured:
        paths = {m.path for m in measured}
        unique = len({Path(path).name for path in paths}) == len(paths)
        titles = [
            f'{Path(m.path).name if unique else m.path} {m.width}x{m.height}'
            + (f' of {m.image_size[0]}x{m.image_size[1]}' if m.image_size else '')
            for m in measured
        ]
        width = max(map(len, titles)) + 2
        lines.append(' ' * (width + 11) + ''.join(f'{name:>9}' for name, _, _ in _COLUMNS))
        for title, item in zip(titles, measured, strict=True):
            values = [(getattr(item, name), form) for _, name, form in _COLUMNS]
            lines.append(
                f'{title:{width}}{item.backend:11}'
                + ''.join(
                    f'{"" if value is None else format(value, form):>9}' for value, form in values
                )
            )
    return '\n'.join([*lines, *(f'Not measured: {reason}' for reason in missing)])


def layer_table(item: Measurement, most: int) -> str:
    """The slowest layers of a measurement as text for the terminal."""
    total = sum(layer.ms for layer in item.layers)
    slowest = sorted(item.layers, key=lambda layer: layer.ms, reverse=True)
    lines = [f'{item.path} with {item.backend}: {len(item.layers)} layers, {total:.2f} ms']
    lines += [
        f'{layer.ms:9.3f} ms {layer.ms / total:7.1%}  {layer.kind:20} {layer.name}'
        for layer in slowest[:most]
    ]
    return '\n'.join(lines)


def _parser() -> argparse.ArgumentParser:
    from depth_ros.commands.options import count

    summary, epilog = __doc__.split('\n\n', 1)
    parser = argparse.ArgumentParser(
        prog='bench_engine', description=summary.split(': ')[0] + '.', epilog=epilog
    )
    parser.add_argument(
        'models', nargs='+', type=Path, metavar='MODEL', help='.onnx or .engine files'
    )
    parser.add_argument(
        '--threads',
        type=count,
        default=Effort.threads,
        help='of an inference on the CPU (%(default)s)',
    )
    parser.add_argument(
        '--runs', type=count, default=Effort.runs, help='inferences to measure (%(default)s)'
    )
    parser.add_argument(
        '--warmup', type=count, default=Effort.warmup, help='inferences before them (%(default)s)'
    )
    parser.add_argument(
        '--profile',
        type=count,
        nargs='?',
        const=15,
        metavar='N',
        help='list the N slowest layers, too (%(const)s)',
    )
    parser.add_argument(
        '--json',
        type=Path,
        metavar='FILE',
        help='write the numbers, too, with those of all layers if --profile is given',
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    effort = Effort(threads=arguments.threads, runs=arguments.runs, warmup=arguments.warmup)
    try:
        if arguments.json:
            check_writable(arguments.json)
        measured, missing = bench(arguments.models, effort, bool(arguments.profile))
        print(table(measured, missing, effort))
        for item in measured:
            if item.layers:
                print(f'\n{layer_table(item, arguments.profile)}')
        if arguments.json:
            found = {
                **asdict(effort),
                'measured': [asdict(m) for m in measured],
                'not_measured': missing,
            }
            write_file(arguments.json, json.dumps(found, indent=2, allow_nan=False) + '\n')
    except (ContractError, EngineError, OSError) as error:
        print(f'bench_engine: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('bench_engine: interrupted', file=sys.stderr)
        return 130
    if not measured:
        print('bench_engine: nothing could be measured', file=sys.stderr)
    return 0 if measured else 1


if __name__ == '__main__':
    sys.exit(main())
