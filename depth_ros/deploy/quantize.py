"""Quantise a network to int8: `quantize model.onnx --calibration RECORDING`.

The result is an ONNX file with the same contract, which nodes and evaluation use like any other,
and `build_engine` if it is for TensorRT. It is written only if it is as good as the original on
images that were not used to calibrate it: see the bounds below. Without --validation, images from
all over the recording (or folder), a third of them at most, are kept for that, and others between
them calibrate.

Runtimes want their graphs differently: a file for OpenVINO gains nothing in ONNX Runtime.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper
from tqdm import tqdm

from depth_ros.bags.messages import BagError
from depth_ros.commands.options import count
from depth_ros.core.camera import CameraError
from depth_ros.core.images import ImageError
from depth_ros.deploy.build import is_quantized
from depth_ros.deploy.compare import (
    Images,
    add_bounds,
    compare,
    count_images,
    given_bounds,
    open_images,
    table,
)
from depth_ros.evaluation.offline import Picture, network_image
from depth_ros.files import check_writable, write_file
from depth_ros.inference.contract import ContractError, ModelContract, read_contract
from depth_ros.inference.engine import EngineError
from depth_ros.inference.loader import installed_backends, load_engine
from depth_ros.inference.parity import Bounds

RUNTIMES = ('openvino', 'onnxruntime', 'tensorrt')
SCOPES = ('all', 'encoder')
CALIBRATION_IMAGES = 32
HELD_OUT_IMAGES = 60

_WEIGHTED = ('Conv', 'Gemm', 'MatMul')
_ENLARGING = ('Resize', 'Upsample', 'ConvTranspose', 'DepthToSpace')
_MOVING = ('Concat', 'DepthToSpace', 'Identity', 'MaxPool', 'Pad', 'Resize')
"""Operators whose outputs are values of their inputs, so that one scale fits both."""


_COMMON = (
    "'{}' has images that calibrate the network; a network must be judged on others: give "
    'another --validation, or leave it out'
)


class RefusedError(EngineError):
    """The quantised network is not as good as the original."""


def quantize(
    source: Path,
    calibration: Path,
    validation: Path | None = None,
    *,
    runtime: str = 'openvino',
    scope: str | None = None,
    bounds: Bounds | None = None,
    calibration_images: int = CALIBRATION_IMAGES,
    held_out_images: int = HELD_OUT_IMAGES,
    topics: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """Quantise a network, and judge it on images that it was not calibrated with.

    Args:
        source: ONNX file with a contract.
        calibration: recording or folder of images whose values set the scales.
        validation: another one to judge on; ``None``: images of ``calibration``, a third at most,
            are left out of the calibration, for that.
        runtime: what the file is for, one of :data:`RUNTIMES`.
        scope: ``all`` of the network, or its ``encoder``, that is what comes before the first
            enlargement; ``None``: the encoder for TensorRT, else all.
        bounds: how far the result may be from the original.
        calibration_images, held_out_images: how many images, or pairs of consecutive ones for a
            pose network, to use at most, at least 1; they are spread evenly.
        topics: of recordings, see :class:`depth_ros.deploy.compare.Images`.

    Returns:
        The quantised model, with the contract of the original.

    Raises:
        ContractError: if the file cannot be read or has no contract.
        BagError, ValueError: if the images cannot be used.
        RefusedError: if it is out of bounds; the message tells the numbers.
        EngineError: if there is nothing to quantise, too few images, or images to calibrate are
            among those to judge.
    """
    contract = read_contract(source)
    model = onnx.load(source)
    plan = _Plan.create(model, runtime, scope or ('encoder' if runtime == 'tensorrt' else 'all'))
    length = 2 if contract.task == 'pose' else 1
    totals = [count_images(path, topics or {}) for path in (calibration, validation) if path]
    units, *others = (max(total // length, 1) for total in totals)
    check = None
    seen: set[bytes] = set()
    if validation is None:
        if totals[0] < 3 * length:
            raise EngineError(
                f"'{calibration}' has {totals[0]} images, too few to calibrate with "
                f'some and judge with others; give at least {3 * length}, or others '
                'to judge with --validation'
            )
        chosen, kept = _split(units, calibration_images, held_out_images)
    else:
        if validation.resolve() == calibration.resolve():
            raise EngineError(_COMMON.format(validation))
        check = partial(_check_unseen, validation, seen)
        chosen, kept = _spread(units, calibration_images), _spread(*others, held_out_images)
    images, held_out = (
        Images(
            path=path,
            topics=topics or {},
            only=[length * unit + i for unit in some for i in range(length)],
        )
        for path, some in ((calibration, chosen), (validation or calibration, kept))
    )
    observed = _observe(
        model,
        plan,
        tqdm(
            _inputs(images, contract, seen),
            total=len(chosen),
            desc='calibrate',
            unit='image',
            disable=None,
        ),
        calibration,
    )
    plan.insert(*observed)
    onnx.checker.check_model(model, full_check=True)
    _judge(source, model, held_out, runtime, bounds, check)
    return model


def _spread(number: int, most: int) -> list[int]:
    """At most ``most`` of the first ``number`` whole numbers, spread evenly."""
    most = min(most, number)
    return [(2 * i + 1) * number // (2 * most) for i in range(most)]


def _split(number: int, calibration: int, held_out: int) -> tuple[list[int], list[int]]:
    """Which to calibrate with and which to judge on, at most as many as asked for.

    Both are spread over all of the recording, where a robot may stand still for a while, and as far
    from each other as can be, as images that follow each other are much alike.
    """
    held_out = min(held_out, number // 3)
    places = _spread(number, calibration + held_out)
    kept = [places[i] for i in _spread(len(places), held_out)]
    return sorted({*places} - {*kept}), kept


def _hash(picture: Picture) -> bytes:
    return hashlib.sha256(picture.rgb).digest()


def _check_unseen(validation: Path, seen: set[bytes], picture: Picture) -> None:
    if _hash(picture) in seen:
        raise EngineError(_COMMON.format(validation))


def _inputs(
    images: Images, contract: ModelContract, seen: set[bytes]
) -> Iterator[dict[str, np.ndarray]]:
    """The network's inputs for images, or for pairs of them.

    Args:
        seen: gets the hashes of the images that are used.
    """
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(2))
        _, pictures, _ = open_images(images, contract, stack, pool)
        last: np.ndarray | None = None
        for index, picture, info in pictures:
            try:
                if isinstance(picture, Exception):
                    raise picture
                image = network_image(picture, info, contract)[None]
            except (ImageError, CameraError):  # one image less, or one pair
                last = None
                continue
            seen.add(_hash(picture))
            if contract.task == 'perception':
                yield {'image': image}
            elif index % 2 and last is not None:
                yield {'previous': last, 'current': image}
            last = image


def _observe(
    model: onnx.ModelProto, plan: _Plan, inputs: Iterator[dict[str, np.ndarray]], images: Path
) -> tuple[dict[str, tuple[float, float]], dict[str, np.ndarray]]:
    """Run the original on the images.

    Returns:
        The least and the largest value of each tensor to quantise, and the mean by channel of each
        input of a convolution: the mean, over the images, of each. The mean leaves out what only
        one image has, so that the steps of all others are finer.
    """
    import onnxruntime

    convolved = sorted({n.input[0] for n in plan.nodes if n.op_type == 'Conv'})
    wanted = [(name, kind) for name in plan.groups for kind in ('ReduceMin', 'ReduceMax')]
    wanted += [(name, 'GlobalAveragePool') for name in convolved]
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    for name, kind in wanted:
        options = {} if kind == 'GlobalAveragePool' else {'keepdims': 0}
        watched.graph.node.append(helper.make_node(kind, [name], [f'{name}/{kind}'], **options))
        watched.graph.output.append(
            helper.make_tensor_value_info(f'{name}/{kind}', TensorProto.FLOAT, None)
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        watched.SerializeToString(), options, providers=['CPUExecutionProvider']
    )
    names = ['/'.join(pair) for pair in wanted]
    rows = [session.run(names, feed) for feed in inputs]
    if not rows:
        raise EngineError(f"'{images}' has no image to calibrate with; give another --calibration")
    means = dict(
        zip(wanted, (np.mean(column, 0) for column in zip(*rows, strict=True)), strict=True)
    )
    if not all(np.isfinite(value).all() for value in means.values()):
        raise EngineError(
            'the network gives values that are no numbers; the model is damaged: export it again'
        )
    return (
        {
            name: (float(means[name, 'ReduceMin']), float(means[name, 'ReduceMax']))
            for name in plan.groups
        },
        {name: means[name, 'GlobalAveragePool'].ravel() for name in convolved},
    )


@dataclass
class _Plan:
    """Where values of a graph are quantised.

    Attributes:
        model: the graph.
        runtime: what it is for.
        nodes: those that compute in int8.
        groups: for each tensor to quantise, another one, or itself, whose scale it shares.
        sources: for each of ``nodes``, by output, a quantised tensor with the scale of its input.
        readers: first outputs of the nodes that read quantised values.
    """

    model: onnx.ModelProto
    runtime: str
    nodes: list[NodeProto]
    groups: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    readers: set[str] = field(default_factory=set)

    @classmethod
    def create(cls, model: onnx.ModelProto, runtime: str, scope: str) -> _Plan:
        """Find what is worth it: convolutions and matrix products with constant weights.

        Raises:
            EngineError: if there are none, or the graph is quantised already or too old.
        """
        if is_quantized(model):
            raise EngineError('the model is quantised already; give the original')
        opset = next((o.version for o in model.opset_import if o.domain in ('', 'ai.onnx')), 0)
        if opset < 13:
            raise EngineError(f'int8 needs opset 13, the model has {opset}; export it with 18')
        weights = {i.name for i in model.graph.initializer if i.data_type == TensorProto.FLOAT}
        nodes, weighted, enlarged = [], set(), set()
        for node in model.graph.node:
            after = not enlarged.isdisjoint(node.input)
            constant = node.op_type in _WEIGHTED and node.input[1] in weights
            if constant and not (scope == 'encoder' and after):
                nodes.append(node)
            if constant or not weighted.isdisjoint(node.input):
                weighted.update(node.output)
                if after or node.op_type in _ENLARGING:
                    enlarged.update(node.output)
        if not nodes:
            raise EngineError(
                'the model has no convolution or matrix product with constant '
                'weights, so int8 gains nothing'
            )
        plan = cls(model, runtime, nodes)
        plan._place()
        return plan

    def _place(self) -> None:
        """Quantise where values arise, not where they are read: so convolution, activation and
        quantisation are one kernel, and what only moves values moves bytes."""
        graph = self.model.graph
        makers = {name: node for node in graph.node for name in node.output}
        users: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                users.setdefault(name, []).append(node)
        for node in self.nodes:
            self.readers.add(node.output[0])
            self.sources[node.output[0]] = self._join(node.input[0], makers)
        if self.runtime == 'onnxruntime':
            # It has int8 kernels only for what is between a quantised input and output. The last
            # ones stay as they are: in 8 bits, far depths would be all alike.
            leading: set[str] = set()
            for node in reversed(graph.node):
                if node.output[0] in self.readers or not leading.isdisjoint(node.output):
                    leading.update(node.input)
            for node in self.nodes:
                after = users.get(node.output[0], [])
                fused = len(after) == 1 and after[0].op_type in ('Clip', 'Relu')
                name = after[0].output[0] if fused else node.output[0]
                if name in leading:
                    self.groups.setdefault(name, name)
        self.readers.update(
            n.output[0] for n in graph.node if n.op_type == 'Add' or self.runtime == 'onnxruntime'
        )

    def _join(self, name: str, makers: Mapping[str, NodeProto]) -> str:
        """Quantise a tensor, or what it is moved from, with one scale for all of it.

        Returns:
            One of the tensors that are quantised.
        """
        sources, moved, waiting = [], [], [name]
        while waiting:
            at = waiting.pop()
            maker = makers.get(at)
            if maker is None or maker.op_type not in _MOVING or _interpolates(maker):
                sources.append(at)
                continue
            moved.append(at)
            self.readers.add(maker.output[0])
            waiting += maker.input if maker.op_type == 'Concat' else maker.input[:1]
        if self.runtime == 'onnxruntime':
            sources += moved
        for source in sources:
            self.groups.setdefault(source, source)
        roots = {self.root(source) for source in sources}
        for root in roots:
            self.groups[root] = min(roots)
        return sources[0]

    def root(self, name: str) -> str:
        """The tensor that stands for all those of one scale."""
        while self.groups[name] != name:
            name = self.groups[name]
        return name

    def insert(
        self, ranges: Mapping[str, tuple[float, float]], means: Mapping[str, np.ndarray]
    ) -> None:
        """Insert the quantisation into the graph.

        Args:
            ranges: least and largest value of each tensor to quantise.
            means: mean by channel of each input of a convolution.
        """
        scales = self._scales(ranges)
        graph = self.model.graph
        read = {name for node in graph.node for name in node.input}
        constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        computed = {node.output[0] for node in self.nodes}
        nodes = [pair for i in graph.input for pair in self._pair(i.name, scales)]
        for node in graph.node:
            mean = means.get(node.input[0]) if node.output[0] in computed else None
            if node.output[0] in self.readers:
                for index, name in enumerate(node.input):
                    if name in scales:
                        node.input[index] = f'{name}/dequantized'
            if node.output[0] in computed:
                scale = scales[self.sources[node.output[0]]][0]
                nodes += self._weights(node, constants, scale, mean)
            nodes.append(node)
            for name in node.output:
                nodes += self._pair(name, scales)
        used = {name for node in nodes for name in node.input}
        # What no node has read, a branch of one may read.
        kept = [i for i in graph.initializer if i.name in used or i.name not in read]
        for target, items in (
            (graph.node, nodes),
            (graph.initializer, kept),
            (graph.value_info, []),
        ):
            items = [type(item).FromString(item.SerializeToString()) for item in items]
            del target[:]
            target.extend(items)

    def _scales(self, ranges: Mapping[str, tuple[float, float]]) -> dict[str, tuple]:
        """Scale and zero point of each tensor."""
        joined: dict[str, tuple[float, float]] = {}
        for name in self.groups:
            low, high = joined.get(self.root(name), (0.0, 0.0))
            joined[self.root(name)] = min(low, ranges[name][0]), max(high, ranges[name][1])
        scales = {}
        for name in self.groups:
            low, high = joined[self.root(name)]
            if self.runtime == 'tensorrt':
                scales[name] = np.float32(max(-low, high) / 127 or 1.0), np.int8(0)
            else:
                scale = (high - low) / 255 or 1.0
                scales[name] = np.float32(scale), np.uint8(round(-low / scale))
        return scales

    def _pair(self, name: str, scales: Mapping[str, tuple]) -> list[NodeProto]:
        """Quantise and dequantise a tensor, if it is one of those."""
        if name not in scales:
            return []
        scale = self._constant(scales[name][0], f'{name}/scale')
        zero = self._constant(scales[name][1], f'{name}/zero_point')
        return [
            helper.make_node(
                'QuantizeLinear',
                [name, scale, zero],
                [f'{name}/quantized'],
                name=f'{name}/quantize',
            ),
            helper.make_node(
                'DequantizeLinear',
                [f'{name}/quantized', scale, zero],
                [f'{name}/dequantized'],
                name=f'{name}/dequantize',
            ),
        ]

    def _weights(
        self,
        node: NodeProto,
        constants: Mapping[str, np.ndarray],
        scale: np.float32,
        mean: np.ndarray | None,
    ) -> list[NodeProto]:
        """Quantise a node's weights by output channel, and, for ONNX Runtime, its bias.

        Args:
            constants: by name.
            scale: of its input.
            mean: of its input, by channel; ``None`` if it is no convolution.
        """
        values = constants[node.input[1]]
        transposed = any(a.name == 'transB' and a.i for a in node.attribute)
        axis = 0 if node.op_type == 'Conv' or transposed else values.ndim - 1
        others = tuple(i for i in range(values.ndim) if i != axis)
        scales = (np.abs(values).max(others) / 127).astype(np.float32)
        scales[scales == 0] = 1.0
        steps = np.rint(values / np.expand_dims(scales, others)).astype(np.int8)
        bias = constants.get(node.input[2]) if len(node.input) > 2 else None
        if mean is not None and (bias is not None or len(node.input) == 2):
            # What rounding the weights adds to the mean of the output is taken off again.
            lost = values - steps * np.expand_dims(scales, others)
            lost = lost.reshape(*lost.shape[:2], -1).sum(2)
            groups = len(mean) // lost.shape[1]
            parts = np.repeat(mean.reshape(groups, -1), len(lost) // groups, 0)
            bias = (0 if bias is None else bias) + (lost * parts).sum(1).astype(np.float32)
            del node.input[2:]
            node.input.append(self._constant(bias, f'{node.output[0]}/bias'))
        nodes = [self._dequantize(node, 1, steps, scales, axis)]
        if self.runtime == 'onnxruntime' and bias is not None:
            scales = scales * scale
            limit = np.iinfo(np.int32)
            steps = np.clip(np.rint(bias / scales.astype(float)), limit.min, limit.max)
            nodes.append(self._dequantize(node, 2, steps.astype(np.int32), scales, 0))
        return nodes

    def _dequantize(
        self, node: NodeProto, index: int, steps: np.ndarray, scales: np.ndarray, axis: int
    ) -> NodeProto:
        """Put quantised constants in place of a node's input."""
        # One constant may serve several nodes, each with scales of its own for the bias.
        name = f'{node.output[0]}/{node.input[index]}'
        node.input[index] = f'{name}/dequantized'
        inputs = [
            self._constant(steps, f'{name}/quantized'),
            self._constant(scales, f'{name}/scale'),
            self._constant(np.zeros(len(scales), steps.dtype), f'{name}/zero_point'),
        ]
        return helper.make_node(
            'DequantizeLinear', inputs, [node.input[index]], name=f'{name}/dequantize', axis=axis
        )

    def _constant(self, value: np.ndarray, name: str) -> str:
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name


def _interpolates(node: NodeProto) -> bool:
    """Whether a node makes new values, as a linear Resize does."""
    modes = [a.s for a in node.attribute if a.name == 'mode']
    return node.op_type == 'Resize' and modes not in ([], [b'nearest'])


def _judge(
    source: Path,
    model: onnx.ModelProto,
    held_out: Images,
    runtime: str,
    bounds: Bounds | None,
    check: Callable[[Picture], None] | None,
) -> None:
    """Compare with the original, print the numbers, and refuse what is out of bounds."""
    installed = installed_backends()
    backend = runtime if runtime in installed else 'onnxruntime'
    with tempfile.TemporaryDirectory() as folder:
        candidate = Path(folder, source.name)
        onnx.save(model, candidate)
        engines = []
        try:
            for path in (source, candidate):
                engines.append(load_engine(path, backend))
            result = compare(*engines, held_out, bounds, check=check)
        finally:
            for engine in engines:
                engine.close()
    what = 'pairs of images' if 'pose' in result.agreement.to_dict() else 'images'
    print(
        f'{result.agreement.frames} held-out {what} of {held_out.path} on {backend}; '
        f'A is {source}, B its int8\n{table(result)}'
    )
    if result.problems:
        raise RefusedError(
            f"int8 of '{source}' is refused: {'; '.join(result.problems)}; calibrate with images "
            "more like those of use, or see 'quantize --help' for how to quantise less or to raise "
            'the bound'
        )


def _parser() -> argparse.ArgumentParser:
    summary, epilog = __doc__.split('\n\n', 1)
    parser = argparse.ArgumentParser(
        prog='quantize',
        description=summary.split(': ')[0] + '.',
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('model', type=Path, help='ONNX file with a depth_ros contract')
    parser.add_argument(
        '--calibration',
        type=Path,
        required=True,
        metavar='PATH',
        help='recording, or folder of images, of the camera',
    )
    parser.add_argument(
        '--validation',
        type=Path,
        metavar='PATH',
        help='another one to judge on '
        '(default: images from all over the calibration, a third at most, which '
        'are kept for that)',
    )
    parser.add_argument('--output', type=Path, help='file to write (default: MODEL_int8.onnx)')
    parser.add_argument(
        '--runtime',
        choices=RUNTIMES,
        default=(installed_backends() or RUNTIMES)[0],
        help='what the file is for (default: %(default)s, which is here)',
    )
    parser.add_argument(
        '--scope',
        choices=SCOPES,
        help='what to quantise (default: the encoder for tensorrt, else all)',
    )
    parser.add_argument(
        '--images',
        type=count,
        default=CALIBRATION_IMAGES,
        metavar='N',
        help='calibrate with at most N images, or pairs of them for a pose network (%(default)s)',
    )
    parser.add_argument(
        '--held-out',
        type=count,
        default=HELD_OUT_IMAGES,
        metavar='N',
        help='judge on at most N images, or pairs (%(default)s)',
    )
    topics = parser.add_argument_group(
        'topics of recordings', 'found by type and name if not given'
    )
    topics.add_argument('--image', metavar='TOPIC')
    topics.add_argument('--camera-info', metavar='TOPIC')
    group = parser.add_argument_group('bounds of what is accepted')
    add_bounds(group, {item.name: f'--{item.name.replace("_", "-")}' for item in fields(Bounds)})
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    source = arguments.model
    output = arguments.output or source.with_name(f'{source.stem}_int8.onnx')
    try:
        if output.suffix != '.onnx':
            raise EngineError(f"output '{output}' must end in .onnx")
        check_writable(output)
        if output.resolve() == source.resolve():
            raise EngineError(f"output '{output}' is the model itself; give another with --output")
        model = quantize(
            source,
            arguments.calibration,
            arguments.validation,
            runtime=arguments.runtime,
            scope=arguments.scope,
            calibration_images=arguments.images,
            held_out_images=arguments.held_out,
            topics={
                name: topic
                for name in ('image', 'camera_info')
                if (topic := getattr(arguments, name))
            },
            bounds=given_bounds(arguments),
        )
        write_file(output, model.SerializeToString())
    except (BagError, ContractError, EngineError, OSError, ValueError) as error:
        print(f'quantize: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('quantize: interrupted', file=sys.stderr)
        return 130
    print(
        f'wrote {output} ({output.stat().st_size / 1e6:.1f} MB, '
        f'{source.stat().st_size / 1e6:.1f} MB before)'
    )
    return 0


if __name__ == '__main__':
    sys.exit(main())
