"""Building TensorRT engines.

An engine fits the GPU and the TensorRT version that built it: build on the robot. As a program,
``python -m depth_ros.deploy.build MODEL PRECISION OUTPUT``, this is what a node starts to build the
engine of its model.
"""

from __future__ import annotations

import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx

from depth_ros.deploy.fp16 import to_fp16
from depth_ros.deploy.onnx_graph import check_operators, quantized_for
from depth_ros.files import check_writable, file_hash, write_file
from depth_ros.inference.contract import ContractError, read_contract
from depth_ros.inference.engine import EngineError
from depth_ros.inference.engine_file import (
    ENGINE_SUFFIX,
    EngineRecord,
    record_path,
    shell_command,
    timing_path,
)
from depth_ros.inference.runtimes.tensorrt import (
    construct,
    cuda_call,
    cuda_module,
    error_log,
    find_gpu,
    reasons,
    tensorrt_module,
)

HEARTBEAT = 5.0
"""Seconds between two lines of progress."""


def load_model(source: Path, precision: str, calibration: Path | None = None) -> onnx.ModelProto:
    """Read a model and bring it to a precision, one of ``fp32``, ``fp16`` and ``int8``.

    Args:
        source: ONNX file with a contract.
        precision: a quantised file is ``int8`` and stays as it is.
        calibration: recording or folder of images to quantise with, see
            :func:`depth_ros.deploy.quantize.quantize`.

    Raises:
        ContractError: if the file cannot be read or has no contract.
        BagError, ValueError: if the images cannot be used.
        EngineError: if TensorRT cannot read its graph, the model is quantised but shall not be or
            the other way round, int8 is not as good as the original, or the file changes meanwhile.
    """
    read_contract(source)
    digest = file_hash(source)
    model = onnx.load(source)
    quantized = quantized_for(model)
    # Both the nodes, which build by themselves, and users of the command read these messages.
    if quantized not in (None, 'tensorrt'):
        raise EngineError(
            f"'{source}' is quantised for {quantized}, and TensorRT takes no values quantised to "
            f'0..255: for a node, set its parameter backend to {quantized}, or model to the '
            "original file; for int8 on TensorRT, quantise that with 'quantize --runtime tensorrt'"
        )
    check_operators(model)
    if quantized and precision != 'int8':
        command = shell_command('build_engine', source, '--precision', 'int8')
        raise EngineError(
            f"'{source}' is quantised for tensorrt, and cannot be {precision}: build "
            f'it with {command}, or take the original file'
        )
    if quantized and calibration:
        raise EngineError(
            f"'{source}' is quantised already; leave --calibration out, or give the original model"
        )
    if precision == 'int8' and not quantized:
        if calibration is None:
            raise EngineError(
                f"'{source}' is not quantised, and int8 needs images to do it with: "
                'give --calibration RECORDING, or a folder of images'
            )
        from depth_ros.deploy.quantize import quantize  # needs what reads recordings

        model = quantize(source, calibration, runtime='tensorrt')
        check_operators(model)
    if file_hash(source) != digest:  # an engine's record must be of what it was built from
        raise EngineError(f"'{source}' has changed while it was read; start again")
    return to_fp16(model) if precision == 'fp16' else model


def build(
    source: Path,
    output: Path,
    precision: str = 'fp32',
    stop: threading.Event | None = None,
    *,
    calibration: Path | None = None,
    model: onnx.ModelProto | None = None,
    trt: Any = None,
    cudart: Any = None,
) -> None:
    """Build an engine for this machine's GPU. It and its record are written whole or not at all.

    Args:
        source: ONNX file with a contract.
        output: file to write, ``.engine``. Beside it are written its record, ``.json``, and
            ``.timing``, measurements that make the next build faster.
        precision, calibration: see :func:`load_model`.
        stop: another thread or a signal handler sets it to stop the build.
        model: result of :func:`load_model` for these arguments; ``None`` to load it here.
        trt, cudart: modules; ``None`` for the installed ones.

    Raises:
        ContractError: if the model cannot be read or has no contract.
        EngineError: if there is no GPU, TensorRT cannot build the model, or was stopped.
        OSError: if the file cannot be written.
    """
    model = model or load_model(source, precision, calibration)
    contract, digest = read_contract(source), file_hash(source)
    check_output(output)
    cudart = cudart if cudart is not None else cuda_module()
    gpu = find_gpu(cudart)
    trt = trt if trt is not None else tensorrt_module()
    record = EngineRecord(
        contract=contract,
        source=source.name,
        source_sha256=digest,
        precision=precision,
        tensorrt=trt.__version__,
        cuda=cuda_call(cudart, 'cudaRuntimeGetVersion'),
        gpu=gpu,
        command=shlex.join(
            [
                'build_engine',
                str(source.resolve()),
                '--precision',
                precision,
                *(['--calibration', str(calibration.resolve())] if calibration else []),
                '--output',
                str(output.resolve()),
            ]
        ),
    )
    timing = timing_path(output)
    known = timing.read_bytes() if timing.is_file() else b''
    print(
        f'TensorRT {trt.__version__} tries which kernels are fastest on {gpu}; that can take '
        'many minutes',
        file=sys.stderr,
    )
    plan, measured = serialize(model, trt, known, stop or threading.Event())
    output.parent.mkdir(parents=True, exist_ok=True)
    if measured:
        write_file(timing, measured)
    # Until both are written there is no record, so that an older engine is refused.
    record_path(output).unlink(missing_ok=True)
    write_file(output, plan)
    write_file(record_path(output), record.to_json())


def serialize(
    model: onnx.ModelProto, trt: Any, timing: bytes | None, stop: threading.Event
) -> tuple[bytes, bytes]:
    """Let TensorRT parse and build a model.

    Args:
        model: the graph, of the precision that the engine shall have.
        trt: the module ``tensorrt``, or ``tensorrt_rtx``, which needs no GPU.
        timing: timing cache of an earlier build, which is ignored if it does not fit; empty for a
            new one; ``None`` for none, as TensorRT-RTX has none.
        stop: set to stop the build.

    Returns:
        The engine, and the timing cache, empty if there is none.

    Raises:
        EngineError: if TensorRT fails (the message says why), or it was stopped.
    """
    log = error_log(trt)
    builder = construct(trt.Builder, log)
    if builder is None:
        raise EngineError(f'TensorRT {trt.__version__} cannot start: {reasons(log)}')
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(model.SerializeToString()):
        problems = '; '.join(str(parser.get_error(i).desc()) for i in range(parser.num_errors))
        raise EngineError(f'TensorRT {trt.__version__} cannot read the model: {problems}')
    config = builder.create_builder_config()
    # TF32 rounds like fp16, so it would not be fp32.
    config.clear_flag(trt.BuilderFlag.TF32)
    # The variable keeps the cache alive until the engine is built.
    cache = None if timing is None else _set_timing_cache(config, timing)
    log.errors.clear()
    with _progress(trt, stop) as monitor:
        config.progress_monitor = monitor
        plan = builder.build_serialized_network(network, config)
    if stop.is_set():
        raise EngineError('the build was stopped; nothing was written')
    if plan is None:
        raise EngineError(f'TensorRT {trt.__version__} cannot build the model: {reasons(log)}')
    return bytes(plan), b'' if cache is None else bytes(config.get_timing_cache().serialize())


def _set_timing_cache(config: Any, timing: bytes) -> Any:
    """Use a timing cache, or an empty one if it is of another GPU or version of TensorRT."""
    for content in (timing, b''):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return cache
    return None


@contextmanager
def _progress(trt: Any, stop: threading.Event):
    """A progress monitor that prints to stderr what TensorRT is doing, while the block runs.

    It prints at regular times, as one step can take minutes in which TensorRT reports nothing.
    """
    phases: dict[str, list[int]] = {}  # of current phases, outermost first: steps done, all steps
    start = time.monotonic()

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases[phase_name] = [0, num_steps]

        def step_complete(self, phase_name: str, step: int) -> bool:
            phases[phase_name][0] = step + 1
            return not stop.is_set()

        def phase_finish(self, phase_name: str) -> None:
            del phases[phase_name]

    def report() -> None:
        while not done.wait(HEARTBEAT):
            at = ', '.join(f'{name} {step}/{steps}' for name, (step, steps) in list(phases.items()))
            print(
                f'{time.monotonic() - start:4.0f} s: {at or "TensorRT is starting"}',
                file=sys.stderr,
                flush=True,
            )

    done = threading.Event()
    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        yield Monitor()
    finally:
        done.set()
        reporter.join()


def check_output(output: Path) -> None:
    """Check, before the long build, that an engine file can be written.

    Raises:
        EngineError: if its name does not end as that of an engine file.
        OSError: if it cannot be written.
    """
    if output.suffix != ENGINE_SUFFIX:
        raise EngineError(f"output '{output}' must end in {ENGINE_SUFFIX}, by which it is known")
    check_writable(output, folders=True)


def check_without_gpu(
    model: onnx.ModelProto, stop: threading.Event | None = None
) -> tuple[str, int]:
    """Let TensorRT-RTX, which needs no GPU, parse and build a model.

    Args:
        model: what :func:`load_model` gave.
        stop: set to stop the build.

    Returns:
        The version of TensorRT-RTX, and the size of the engine in bytes.

    Raises:
        EngineError: if it is not installed, cannot build the model, or was stopped.
    """
    try:
        import tensorrt_rtx as trt
    except ImportError as error:
        raise EngineError(
            f'--check needs TensorRT-RTX ({error}); pip install tensorrt-rtx-cu13'
        ) from error
    plan, _ = serialize(model, trt, None, stop or threading.Event())
    return trt.__version__, len(plan)


@contextmanager
def stop_on_interrupt(stop: threading.Event) -> Iterator[None]:
    """While the block runs, Ctrl-C sets an event instead of raising.

    An exception must not pass through TensorRT's code; TensorRT is asked to stop instead.
    """
    before = signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def main(arguments: list[str] | None = None) -> int:
    """Build an engine for a node; returns the exit status.

    Args:
        arguments: model, precision and output; ``None``: those of this process.
    """
    source, precision, output = arguments or sys.argv[1:]
    stop = threading.Event()
    with stop_on_interrupt(stop):
        try:
            build(Path(source), Path(output), precision, stop)
            print(f'wrote {output} ({Path(output).stat().st_size / 1e6:.1f} MB, {precision})')
        except (ContractError, EngineError, OSError, ValueError, RuntimeError) as error:
            print(f'build_engine: {error}', file=sys.stderr)
            return 130 if stop.is_set() else 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
