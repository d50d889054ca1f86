"""Quantising a network to int8, and judging the result on images that did not calibrate it.

Runtimes want their graphs differently: a file for OpenVINO gains nothing in ONNX Runtime.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from tqdm import tqdm

from depth_ros.core.camera import CameraError
from depth_ros.core.images import ImageError
from depth_ros.deploy.compare import compare
from depth_ros.deploy.image_source import (
    CALIBRATION_IMAGES,
    HELD_OUT_IMAGES,
    Images,
    count_images,
    open_images,
)
from depth_ros.deploy.quantization_plan import QuantizationPlan
from depth_ros.evaluation.runner import RecordedImage, network_image
from depth_ros.inference.contract import ModelContract, read_contract
from depth_ros.inference.engine import EngineError
from depth_ros.inference.loader import installed_backends, load_engine
from depth_ros.inference.parity_measures import Bounds

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
        validation: recording or folder to judge on; ``None``: images of ``calibration``, at most a
            third, which do not calibrate.
        runtime: the runtime to quantise for, ``openvino``, ``onnxruntime`` or ``tensorrt``.
        scope: ``all`` of the network, or its ``encoder``, which is what comes before the first
            enlargement; ``None``: the encoder for TensorRT, else all.
        bounds: how far the result may be from the original.
        calibration_images, held_out_images: how many images, or pairs of consecutive ones for a
            pose network, to use at most; at least 1. They are spread evenly.
        topics: topics of recordings, see :class:`depth_ros.deploy.image_source.Images`.

    Returns:
        The quantised model, with the contract of the original.

    Raises:
        ContractError: if the file cannot be read or has no contract.
        BagError, ValueError: if the images cannot be used.
        RefusedError: if the result is out of bounds; the message has the numbers.
        EngineError: if there is nothing to quantise, there are too few images, or an image would
            both calibrate and judge.
    """
    contract = read_contract(source)
    model = onnx.load(source)
    plan = QuantizationPlan.create(
        model, runtime, scope or ('encoder' if runtime == 'tensorrt' else 'all')
    )
    length = 2 if contract.task == 'pose' else 1
    totals = [count_images(path, topics or {}) for path in (calibration, validation) if path]
    units = [max(total // length, 1) for total in totals]
    check = None
    seen: set[bytes] = set()
    if validation is None:
        if totals[0] < 3 * length:
            raise EngineError(
                f"'{calibration}' has {totals[0]} images, too few to calibrate with "
                f'some and judge with others; give at least {3 * length}, or others '
                'to judge with --validation'
            )
        chosen, kept = _split(units[0], calibration_images, held_out_images)
    else:
        if validation.resolve() == calibration.resolve():
            raise EngineError(_COMMON.format(validation))
        check = partial(_check_unseen, validation, seen)
        chosen, kept = _spread(units[0], calibration_images), _spread(units[1], held_out_images)
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
    """At most ``most`` of the whole numbers below ``number``, spread evenly."""
    most = min(most, number)
    return [(2 * i + 1) * number // (2 * most) for i in range(most)]


def _split(number: int, calibration: int, held_out: int) -> tuple[list[int], list[int]]:
    """Indices of the images that calibrate, and of those that judge.

    Both are spread over the whole recording, as a robot may stand still for a while. They are as
    far from each other as possible, as consecutive images are much alike.

    Args:
        number: number of images.
        calibration, held_out: how many to use at most.
    """
    held_out = min(held_out, number // 3)
    places = _spread(number, calibration + held_out)
    kept = [places[i] for i in _spread(len(places), held_out)]
    return sorted({*places} - {*kept}), kept


def _hash(picture: RecordedImage) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(picture.rgb).data).digest()


def _check_unseen(validation: Path, seen: set[bytes], picture: RecordedImage) -> None:
    if _hash(picture) in seen:
        raise EngineError(_COMMON.format(validation))


def _inputs(
    images: Images, contract: ModelContract, seen: set[bytes]
) -> Iterator[dict[str, np.ndarray]]:
    """The network's inputs for images, or for pairs of images.

    Args:
        images: the images.
        contract: the network's contract.
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
    model: onnx.ModelProto,
    plan: QuantizationPlan,
    inputs: Iterable[dict[str, np.ndarray]],
    images: Path,
) -> tuple[dict[str, tuple[float, float]], dict[str, np.ndarray]]:
    """Run the original network on the images.

    Returns:
        The least and the largest value of each tensor to quantise, and the mean of each channel of
        each input of a convolution, all averaged over the images. Averaging cuts off extremes of
        single images, so that the quantisation is finer for all others.
    """
    import onnxruntime

    convolved = sorted({n.input[0] for n in plan.nodes if n.op_type == 'Conv'})
    wanted = [(name, kind) for name in plan.groups for kind in ('ReduceMin', 'ReduceMax')]
    wanted += [(name, 'GlobalAveragePool') for name in convolved]
    observed = onnx.ModelProto()
    observed.CopyFrom(model)
    for name, kind in wanted:
        node = helper.make_node(kind, [name], [f'{name}/{kind}'])
        if kind != 'GlobalAveragePool':
            node.attribute.append(helper.make_attribute('keepdims', 0))
        observed.graph.node.append(node)
        observed.graph.output.append(
            helper.make_tensor_value_info(f'{name}/{kind}', TensorProto.FLOAT, None)
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        observed.SerializeToString(), options, providers=['CPUExecutionProvider']
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


def _judge(
    source: Path,
    model: onnx.ModelProto,
    held_out: Images,
    runtime: str,
    bounds: Bounds | None,
    check: Callable[[RecordedImage], None] | None,
) -> None:
    """Compare with the original, print the numbers, and refuse what is out of bounds."""
    installed = installed_backends()
    backend = runtime if runtime in installed else 'onnxruntime'
    with tempfile.TemporaryDirectory() as folder:
        candidate = Path(folder, source.name)
        onnx.save(model, candidate)
        with (
            closing(load_engine(source, backend)) as a,
            closing(load_engine(candidate, backend)) as b,
        ):
            result = compare(a, b, held_out, bounds, check=check)
    what = 'pairs of images' if 'pose' in result.parity.outputs else 'images'
    print(
        f'{result.parity.frames} held-out {what} of {held_out.path} on {backend}; '
        f'A is {source}, B its int8\n{result.table()}'
    )
    if result.problems:
        raise RefusedError(
            f"int8 of '{source}' is refused: {'; '.join(result.problems)}; calibrate with images "
            "more like those of use, or see 'quantize --help' for how to quantise less or to raise "
            'the bound'
        )
