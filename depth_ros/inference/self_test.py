"""Is a TensorRT engine right? A node compares it with the CPU before it relies on it.

Some versions of TensorRT silently give wrong depth, or another scale from frame to frame. So a node
runs a new engine and the same model on the CPU on stored pictures. If they differ by more than the
engine's precision explains, the node runs the model on the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from depth_ros.inference.contract import ModelContract
from depth_ros.inference.engine import Engine, EngineError, UnfitEngineError
from depth_ros.inference.engine_file import ENGINE_SUFFIX, engine_files
from depth_ros.inference.loader import installed_backends, load_built_engine, load_engine
from depth_ros.inference.parity import ParityMeter, in_range
from depth_ros.inference.parity_measures import Bounds
from depth_ros.share import share_path

FRAMES = ('models/frames/street_0.jpg', 'models/frames/street_1.jpg')

BOUNDS = {
    'fp32': Bounds(
        depth_error=0.002, label_agreement=0.995, translation_error=0.005, rotation_error=0.01
    ),
    'fp16': Bounds(
        depth_error=0.02, label_agreement=0.97, translation_error=0.02, rotation_error=0.1
    ),
    'int8': Bounds(
        depth_error=0.1,
        invalid=0.01,
        label_agreement=0.9,
        translation_error=0.1,
        rotation_error=0.5,
    ),
}
"""How far a correct engine may be from the CPU, by its precision. The bounds find engines that are
wrong; what a precision costs in accuracy, only ground truth can tell."""

LARGEST_CHANGE = 0.001
"""How much an engine's outputs may change when it gets the same picture again."""


@dataclass(frozen=True)
class LoadedEngine:
    """What :func:`load_checked` found.

    Attributes:
        engine: the engine to use.
        tensorrt: what to report about TensorRT; empty if it was not asked for.
        buildable: whether building an engine would help: there is none, or it does not fit.
        unchecked: whether TensorRT is used without a comparison with the CPU.
    """

    engine: Engine
    tensorrt: str = ''
    buildable: bool = False
    unchecked: bool = False


def load_checked(
    path: Path, backend: str = 'auto', threads: int = 2, mapped: bool | None = None
) -> LoadedEngine:
    """Load a model as ``load_engine`` does, but take TensorRT only if its results are right.

    An engine file without its ONNX file cannot be checked, nor can any engine on a machine without
    a CPU runtime.

    Args:
        path, backend, threads, mapped: see :func:`depth_ros.inference.loader.load_engine`.

    Raises:
        ContractError, EngineError: as ``load_engine``; also if ``path`` is an engine file whose
            results are wrong.
    """
    if path.suffix == ENGINE_SUFFIX:
        engine = load_engine(path, backend, threads, mapped)
        if not engine.source.is_file():
            return LoadedEngine(
                engine,
                f"'{path}' is not compared with the CPU, so its results may be wrong: "
                f"'{engine.source}', of which it was built, is not there; copy it there",
                unchecked=True,
            )
        return _check_against_cpu(engine)
    cpu = (installed_backends() or ('auto',))[0]
    if backend != 'auto' or not engine_files(path):
        fallback = cpu if backend == 'auto' else backend
        return LoadedEngine(load_engine(path, fallback, threads), '', backend == 'auto')
    try:
        return _check_against_cpu(load_built_engine(path, threads, mapped))
    except EngineError as error:
        return LoadedEngine(
            load_engine(path, cpu, threads),
            f'not used: {error}',
            isinstance(error, UnfitEngineError),
        )


def _check_against_cpu(engine: Engine) -> LoadedEngine:
    """Check an engine; close it if it is wrong."""
    installed = installed_backends()
    if not installed:
        return LoadedEngine(
            engine,
            'the engine is not compared with the CPU, so its results may be wrong: no CPU '
            'runtime is installed; pip install onnxruntime',
            unchecked=True,
        )
    try:
        reference = load_engine(engine.source, installed[0], engine.threads)
        try:
            return LoadedEngine(engine, check_engine(engine, reference, engine.precision))
        finally:
            reference.close()
    except BaseException:
        engine.close()
        raise


def check_engine(engine: Engine, reference: Engine, precision: str) -> str:
    """Compare an engine with a reference on stored pictures.

    Args:
        engine: the engine to judge.
        reference: the same model on a runtime that is trusted.
        precision: that of the engine, a key of :data:`BOUNDS`.

    Returns:
        The differences, as text.

    Raises:
        EngineError: if a difference is too large; the message has all and their bounds.
    """
    inputs = stored_inputs(engine.contract)
    expected, found = (
        [{name: value.copy() for name, value in runner.infer(item).items()} for item in inputs]
        for runner in (reference, engine)
    )
    meter, text = ParityMeter(engine.contract), ''
    try:
        for pair in zip(expected, found, strict=True):
            meter.add(*in_range(*pair, engine.contract))
        parity = meter.result()
        text, problems = parity.text(), parity.problems(BOUNDS[precision])
    except EngineError as error:  # there is nothing to compare
        problems = [str(error)]
    change = largest_change(*in_range(found[0], found[-1], engine.contract))
    if not change <= LARGEST_CHANGE:
        problems.append(
            f'change where the same picture comes again {100 * change:.3g} %, at most '
            f'{100 * LARGEST_CHANGE:.3g} % is allowed'
        )
    if problems:
        remedy = '' if precision == 'fp32' else 'with a higher --precision, or '
        raise EngineError(
            f"the {precision} engine's results are wrong: compared with {reference.backend}, "
            f'{"; ".join(problems)}; build it {remedy}with another version of TensorRT'
        )
    return f'agrees with {reference.backend}: {text}'


def stored_inputs(contract: ModelContract) -> list[dict[str, np.ndarray]]:
    """Inputs for a model, made of the stored pictures; the last equals the first.

    Raises:
        EngineError: if a picture cannot be read.
    """
    height, width, _ = contract.image_shape
    pictures = []
    for name in FRAMES:
        picture = cv2.imread(str(share_path(name)))
        if picture is None:
            raise EngineError(f"'{share_path(name)}' cannot be read; install depth_ros again")
        pictures.append(
            cv2.resize(picture[..., ::-1], (width, height), interpolation=cv2.INTER_AREA)
        )
    first, second = pictures
    mirrored, dark = [p[:, ::-1] for p in pictures], [p // 2 for p in pictures]
    sequences = ((first, second), (second, first), mirrored, dark, (first, second))
    return [
        {name: image[None] for name, image in zip(contract.inputs, images, strict=False)}
        for images in sequences
    ]


def largest_change(first: Mapping[str, np.ndarray], again: Mapping[str, np.ndarray]) -> float:
    """The largest change of any output.

    Of labels, it is the share that differs; of numbers, the mean change relative to their mean,
    without those that are NaN in both.
    """

    def change(name: str) -> float:
        a, b = first[name], again[name]
        if a.dtype.kind in 'iu':
            return float(np.mean(a != b))
        known = ~(np.isnan(a) & np.isnan(b))
        return float(np.mean(np.abs(b - a)[known]) / max(np.mean(np.abs(a)[known]), 1e-9))

    return max(map(change, first))
