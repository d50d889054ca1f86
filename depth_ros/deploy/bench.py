"""How fast models run on this machine with each runtime.

Each measurement is made in a process of its own, on images of noise.
"""

from __future__ import annotations

import importlib
import os
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from depth_ros.deploy.layers import (
    TENSORRT,
    Effort,
    Layer,
    load_for_bench,
    measure_layers,
    noise_inputs,
)
from depth_ros.inference.contract import read_contract
from depth_ros.inference.engine import EngineError
from depth_ros.inference.engine_file import ENGINE_SUFFIX
from depth_ros.inference.loader import installed_backends
from depth_ros.inference.runtimes.tensorrt import (
    check_machine,
    cuda_call,
    cuda_module,
)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One model on one runtime.

    Attributes:
        path, name: of the model.
        width, height: network size, pixels.
        image_size: (width, height) of the images that it takes and resizes itself; ``None`` if it
            takes them at network size.
        backend: the runtime.
        threads: threads of an inference.
        load_s: time to load or compile the model, seconds; importing the runtime does not count.
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
    """Call a function in a fresh process, so that its memory and threads are its own."""
    # Spawned: inference runtimes do not survive a fork.
    with ProcessPoolExecutor(1, get_context('spawn'), _end_with_parent) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool as error:
            raise EngineError(
                'the process of the measurement was killed: the runtime has crashed, '
                'or there is too little memory'
            ) from error


def _end_with_parent() -> None:
    """End this process when its parent is killed; otherwise it would wait for ever."""

    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
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
    engine = load_for_bench(path, backend, effort.threads)
    load_s = time.perf_counter() - start
    if backend == TENSORRT:
        # On a Jetson this is the system's memory, of which others may free some meanwhile.
        gpu_mb = max(0, before - _free_gpu_memory()) / 1e6
    inputs = noise_inputs(engine)
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


def _peak_memory() -> float:
    """The largest memory that this process has had, MB."""
    # Not getrusage: it includes the parent's memory from before this program was started.
    text = Path('/proc/self/status').read_text()
    line = next(line for line in text.splitlines() if line.startswith('VmHWM:'))
    return int(line.split()[1]) * 1024 / 1e6


def _free_gpu_memory() -> int:
    return cuda_call(cuda_module(), 'cudaMemGetInfo')


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
