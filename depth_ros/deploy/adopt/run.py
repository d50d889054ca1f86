"""Running a foreign network, and the model that was made of it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import EncodeError
from onnx import TensorProto

from depth_ros.deploy.adopt.inspect import ELEMENT_TYPES, NetworkInputs
from depth_ros.deploy.adopt.options import NORMALIZATIONS, AdoptionError, Options
from depth_ros.inference.contract import ModelContract
from depth_ros.inference.loader import load_engine


def normalization(inputs: NetworkInputs, options: Options) -> tuple[np.ndarray, np.ndarray]:
    """Factor and offset (3,) that turn bytes into the network's input.

    Raises:
        AdoptionError: if they are not known, or cannot be used.
    """
    if options.normalization is None:
        if inputs.kind == TensorProto.UINT8:
            return np.ones(3), np.zeros(3)
        raise AdoptionError(
            'nothing in the file tells how the network wants its images: give --preset, or '
            f'--normalization ({", ".join(NORMALIZATIONS)}), or --mean and --std'
        )
    if inputs.kind == TensorProto.UINT8:
        raise AdoptionError('the network takes bytes as they are: leave the normalisation out')
    mean, std = (np.array(v, np.float64) for v in options.normalization)
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
        raise AdoptionError('--mean and --std must be finite, --std positive')
    return 1 / (255 * std), -mean / std


def prepared(
    images: Sequence[np.ndarray], inputs: NetworkInputs, options: Options
) -> dict[str, np.ndarray]:
    """The foreign network's inputs by name, from images uint8 (H, W, 3) RGB in temporal order."""
    factor, offset = normalization(inputs, options)
    chosen = list(images[:2] if inputs.paired or len(inputs.names) == 2 else images[:1])
    if options.input_order == 'current-previous':
        chosen.reverse()
    tensors = []
    for image in chosen:
        pixels = image[..., ::-1] if options.color == 'bgr' else image
        real = pixels.astype(np.float64) * factor + offset
        tensors.append(real.transpose(2, 0, 1) if inputs.nchw else real)
    if inputs.paired:
        tensors = [np.concatenate(tensors, axis=0 if inputs.nchw else -1)]
    return {
        name: np.ascontiguousarray(tensor.reshape(inputs.shape).astype(ELEMENT_TYPES[inputs.kind]))
        for name, tensor in zip(inputs.names, tensors, strict=True)
    }


def open_session(model: onnx.ModelProto, folder: str, simplified: str = '') -> Any:
    """Load a network into ONNX Runtime.

    Args:
        model: the network.
        folder: where to put its file.
        simplified: file to write the simplified graph to; empty for none.

    Raises:
        AdoptionError: if ONNX Runtime is not installed, or the network is too large.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise AdoptionError(
            'adopt_model runs the network with ONNX Runtime; pip install onnxruntime'
        ) from error
    path = Path(folder) / 'foreign.onnx'
    try:
        onnx.save(model, path)
    except (ValueError, EncodeError) as error:
        raise AdoptionError(
            f'the network is larger than the 2 GB of an ONNX file ({error}); take a smaller one'
        ) from error
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = 2
    settings.add_session_config_entry('session.intra_op.allow_spinning', '0')
    if simplified:
        settings.optimized_model_filepath = simplified
        # Further optimisations would be for this processor only.
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return onnxruntime.InferenceSession(str(path), settings, providers=['CPUExecutionProvider'])


def run_foreign(
    model: onnx.ModelProto, given: Mapping[str, np.ndarray], inputs: NetworkInputs
) -> dict[str, np.ndarray]:
    """Run the foreign network.

    Args:
        model: the network.
        given: its inputs by name.
        inputs: what is known of them.

    Returns:
        All its outputs by name.

    Raises:
        AdoptionError: if it does not run.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            session = open_session(model, folder)
            names = [o.name for o in session.get_outputs()]
            values = session.run(names, dict(given))
        except AdoptionError:
            raise
        except Exception as error:  # the runtime has exception types of its own
            width, height = inputs.size
            raise AdoptionError(
                f'ONNX Runtime cannot run the network on images of {width}x{height}: {error}. If '
                'the network was exported for one size, though the file says any, give that with '
                '--size'
            ) from error
    return {
        name: value
        for name, value in zip(names, values, strict=True)
        if isinstance(value, np.ndarray)
    }


def run_adopted(
    model: onnx.ModelProto, contract: ModelContract, images: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    """Run an adopted network on images uint8 (H, W, 3) RGB; returns its outputs by name.

    Raises:
        AdoptionError: if an output has another type or shape than its contract says, or is not
            finite.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'adopted.onnx'
        onnx.save(model, path)
        engine = load_engine(path, 'onnxruntime')
        try:
            found = engine.infer(
                {n: image[None] for n, image in zip(contract.inputs, images, strict=False)}
            )
            found = {name: value.copy() for name, value in found.items()}
        finally:
            engine.close()
    for name, value in found.items():
        kind, shape = contract.tensor_shapes()[name]
        if (value.dtype, value.shape) != (np.dtype(kind), shape):
            raise AdoptionError(
                f'{name} comes out as {value.dtype} {list(value.shape)}, not as '
                f'{kind} {list(shape)}: the network decides sizes by what it sees'
            )
        if not np.isfinite(value).all():
            raise AdoptionError(
                f'{name} is not finite on the picture: the normalisation is wrong, '
                'or the network is damaged'
            )
    return found
