"""Build a TensorRT engine from a model: `build_engine model.onnx [--precision fp16]`.

An engine fits the GPU and the TensorRT version that built it: build on the robot. Without a GPU,
--check lets NVIDIA's parser and builder (TensorRT-RTX) try the model on the CPU; that an engine can
be built says nothing about its speed or its numbers.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx

from depth_ros.deploy.fp16 import to_fp16
from depth_ros.files import check_writable, file_hash, write_file
from depth_ros.inference.contract import ContractError, read_contract
from depth_ros.inference.engine import EngineError
from depth_ros.inference.engine_file import (
    ENGINE_SUFFIX,
    EngineRecord,
    engine_output,
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

PRECISIONS = ('fp32', 'fp16')
"""What any model can be brought to; int8 needs images to calibrate with."""

HEARTBEAT = 5.0  # seconds between two lines of progress

OPSETS = range(9, 21)
OPERATORS = frozenset(
    """
    Abs Add And ArgMax ArgMin Atan AveragePool BatchNormalization Cast Ceil Clip Concat Constant
    ConstantOfShape Conv ConvTranspose Cos CumSum DepthToSpace DequantizeLinear Div Einsum Elu Equal
    Erf Exp Expand
    Flatten Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater
    GreaterOrEqual GridSample HardSigmoid HardSwish Identity InstanceNormalization IsNaN
    LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax MatMul Max MaxPool Mean Min Mul
    Neg Not Or Pad Pow PRelu QuantizeLinear Range Reciprocal ReduceL1 ReduceL2 ReduceMax
    ReduceMean ReduceMin
    ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize Round ScatterElements ScatterND Selu
    Shape Sigmoid Sign Sin Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum
    Tan Tanh Tile TopK Transpose Trilu Unsqueeze Where
""".split()
)
"""What the parser of TensorRT 10.3, JetPack 6's, reads and networks for images need."""
RESIZE = {
    'antialias': {0},
    'keep_aspect_ratio_policy': {b'stretch'},
    'coordinate_transformation_mode': {
        b'align_corners',
        b'asymmetric',
        b'half_pixel',
        b'pytorch_half_pixel',
        b'tf_half_pixel_for_nn',
    },
}
"""The attributes of Resize that it does not read in full, and what it reads."""


def check_operators(model: onnx.ModelProto) -> None:
    """Check that TensorRT 10.3 can read a model.

    Raises:
        EngineError: naming the operators, the opset or the kind of tensor that it cannot read.
    """
    foreign = sorted(
        {
            f'{node.domain}.{node.op_type}'.lstrip('.')
            for node in model.graph.node
            if node.domain not in ('', 'ai.onnx') or node.op_type not in OPERATORS
        }
    )
    if foreign:
        raise EngineError(
            f'TensorRT 10.3 has no operator {", ".join(foreign)}; export the model without it'
        )
    opset = next((o.version for o in model.opset_import if o.domain in ('', 'ai.onnx')), None)
    if opset not in OPSETS:
        raise EngineError(
            f'TensorRT 10.3 reads opset {OPSETS[0]} to {OPSETS[-1]}, the model has '
            f'{opset}; export it with opset 18'
        )
    images = {
        value.name
        for value in model.graph.input
        if value.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    }
    unsigned = {i.name for i in model.graph.initializer if i.data_type == onnx.TensorProto.UINT8}
    for node in model.graph.node:
        if node.op_type == 'QuantizeLinear' and not unsigned.isdisjoint(node.input[2:]):
            raise EngineError(
                'TensorRT takes no values quantised to 0..255, as CPU runtimes want '
                "them; quantise the original with 'quantize --runtime tensorrt'"
            )
        for attribute in node.attribute if node.op_type == 'Resize' else ():
            value = onnx.helper.get_attribute_value(attribute)
            if attribute.name in RESIZE and value not in RESIZE[attribute.name]:
                raise EngineError(
                    f'TensorRT 10.3 has no Resize with {attribute.name} '
                    f"{value!r} ('{node.name}'); export the model without it"
                )
        if node.op_type != 'Cast' and not images.isdisjoint(node.input):
            raise EngineError(
                f'TensorRT 10.3 takes bytes into Cast only, but {node.op_type} '
                f"'{node.name}' reads an image; cast it first"
            )


def is_quantized(model: onnx.ModelProto) -> bool:
    """Whether a graph has quantised values."""
    return any(node.op_type == 'DequantizeLinear' for node in model.graph.node)


def quantized_for(model: onnx.ModelProto) -> str | None:
    """The runtime that :mod:`depth_ros.deploy.quantize` quantised a graph for, or ``None``."""
    if not is_quantized(model):
        return None
    unsigned = {i.name for i in model.graph.initializer if i.data_type == onnx.TensorProto.UINT8}
    if not any(
        node.op_type == 'QuantizeLinear' and not unsigned.isdisjoint(node.input[2:])
        for node in model.graph.node
    ):
        return 'tensorrt'
    steps = {node.output[0] for node in model.graph.node if node.op_type == 'DequantizeLinear'}
    biases = any(
        node.op_type == 'Conv' and not steps.isdisjoint(node.input[2:]) for node in model.graph.node
    )
    return 'onnxruntime' if biases else 'openvino'


def load_model(source: Path, precision: str, calibration: Path | None = None) -> onnx.ModelProto:
    """Read a model and bring it to a precision, one of :data:`PRECISIONS` or ``int8``.

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
    """Build an engine for this machine's GPU; engine and record appear whole or not at all.

    Args:
        source: ONNX file with a contract.
        output: file to write, ``.engine``; beside it come its record, ``.json``, and ``.timing``,
            measurements that make the next build faster.
        precision, calibration: see :func:`load_model`.
        stop: set by another thread or a signal handler to give up.
        model: what :func:`load_model` gave for these; ``None`` to load it here.
        trt, cudart: modules; ``None`` for the installed ones.

    Raises:
        ContractError: if the model cannot be read or has no contract.
        EngineError: if there is no GPU, TensorRT cannot build the model, or was stopped.
        OSError: if the file cannot be written.
    """
    model = model or load_model(source, precision, calibration)
    contract, digest = read_contract(source), file_hash(source)
    _check_writable(output)
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
    # Between the two, an older engine has no record and is refused.
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
        timing: timing cache of an earlier build, which is ignored if it does not fit; empty to
            start one; ``None`` for none, as TensorRT-RTX has none.
        stop: set to give up.

    Returns:
        The engine, and the timing cache, empty if there is none.

    Raises:
        EngineError: with what TensorRT says, or if it was stopped.
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
    # TF32 rounds like fp16: it would be fp32 by name only.
    config.clear_flag(trt.BuilderFlag.TF32)
    # To be kept until the engine is built.
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
    """Go on with a timing cache or, where it is of another GPU or version, with an empty one."""
    for content in (timing, b''):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return cache
    return None


@contextmanager
def _progress(trt: Any, stop: threading.Event):
    """A progress monitor; while the block runs, a line on stderr tells what TensorRT is doing.

    One step can take minutes, without a word of TensorRT: the lines come by the clock.
    """
    phases: dict[str, list[int]] = {}  # steps done and to do of those under way, outermost first
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


def _check_writable(output: Path) -> None:
    """Find out before the long build, not after it."""
    if output.suffix != ENGINE_SUFFIX:
        raise EngineError(f"output '{output}' must end in {ENGINE_SUFFIX}, by which it is known")
    check_writable(output, folders=True)


def _check(source: Path, precision: str, model: onnx.ModelProto, stop: threading.Event) -> None:
    try:
        import tensorrt_rtx as trt
    except ImportError as error:
        raise EngineError(
            f'--check needs TensorRT-RTX ({error}); pip install tensorrt-rtx-cu13'
        ) from error
    plan, _ = serialize(model, trt, None, stop)
    print(
        f'{source} ({precision}): read and built by TensorRT-RTX {trt.__version__}, '
        f'{len(plan) / 1e6:.1f} MB'
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    summary, epilog = __doc__.split('\n\n', 1)
    parser = argparse.ArgumentParser(
        prog='build_engine', description=summary.split(':')[0] + '.', epilog=epilog
    )
    parser.add_argument('model', type=Path, help='ONNX file with a depth_ros contract')
    parser.add_argument(
        '--precision',
        choices=(*PRECISIONS, 'int8'),
        default='fp32',
        help='fp16 halves the size; int8 needs --calibration, or a model of '
        'quantize --runtime tensorrt (default: %(default)s)',
    )
    parser.add_argument(
        '--calibration',
        type=Path,
        metavar='PATH',
        help='recording, or folder of '
        'images, of the camera, to find the scales of int8 with and to judge it; '
        'of several cameras, quantize takes one',
    )
    parser.add_argument(
        '--output',
        type=Path,
        help='engine file (default: MODEL.engine beside the '
        'model, or in ~/.ros/depth_ros if that folder cannot be written; the nodes '
        'find both)',
    )
    parser.add_argument(
        '--check', action='store_true', help='only try, without a GPU; writes nothing'
    )
    arguments = parser.parse_args(argv)
    output = arguments.output or engine_output(arguments.model)
    source, precision, calibration = arguments.model, arguments.precision, arguments.calibration
    stop = threading.Event()
    try:
        if calibration and precision != 'int8':
            raise EngineError('--calibration is for --precision int8')
        if calibration and not arguments.check:  # before the images are gone through
            _check_writable(output)
            find_gpu(cuda_module())
        model = load_model(source, precision, calibration)
        # An exception must not pass through TensorRT: it is asked to stop instead.
        before = signal.signal(signal.SIGINT, lambda *_: stop.set())
        try:
            if arguments.check:
                _check(source, precision, model, stop)
            else:
                build(source, output, precision, stop, calibration=calibration, model=model)
                print(f'wrote {output} ({output.stat().st_size / 1e6:.1f} MB, {precision})')
        finally:
            signal.signal(signal.SIGINT, before)
    except (ContractError, EngineError, OSError, ValueError, RuntimeError) as error:
        print(f'build_engine: {error}', file=sys.stderr)
        return 130 if stop.is_set() else 1
    except KeyboardInterrupt:
        print('build_engine: interrupted', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
