"""A foreign ONNX network in the contract: what is added before and behind it, and the proof.

Images become the network's input in the graph, its outputs depth, labels or motion. The result is
run and compared with the foreign network, with numpy around it.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import TensorProto, compose, helper, inliner, numpy_helper, version_converter

from depth_ros.core.camera import Intrinsics
from depth_ros.core.labels import UNLABELED
from depth_ros.core.se3 import pose, rotation_from_vector, vector_from_rotation
from depth_ros.deploy.build import check_operators
from depth_ros.files import file_hash
from depth_ros.inference.contract import (
    METADATA_KEY,
    POSE_CONVENTION,
    ModelContract,
    SemanticClass,
    write_contract,
)
from depth_ros.inference.engine import EngineError
from depth_ros.inference.loader import load_engine

BOUNDS, COARSE_BOUNDS = (1e-4, 0.999), (1e-2, 0.98)
"""How far depth and motion may be from the foreign network's, relative, and what share of the
pixels must get the same class; the latter of networks that compute in half precision or integers.
The added operators round otherwise than numpy, which such networks magnify."""

NORMALIZATIONS = {
    'imagenet': ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    'half': ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    'unit': ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    'bytes': ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),
}
"""Mean and standard deviation of pixels in 0..1: -1..1 is half, 0..1 unit, 0..255 bytes."""

DEPTH_KINDS = ('metric', 'relative', 'inverse', 'affine-inverse', 'sigmoid')
LABEL_KINDS = ('logits', 'ids')
_RANGES = {
    'metric': (1e-3, 1e3),
    'relative': (1e-6, 1e6),
    'inverse': (1e-6, 1e6),
    'affine-inverse': (1e-6, 1e6),
    'sigmoid': (0.1, 100.0),
}

_HINTS = {'depth': 'depth|disp', 'semantics': 'logit|seg|label|^out'}
"""What one of several outputs that would do is called."""

_OWN_OPSET = range(11, 21)
"""Versions in which the operators that are added mean the same."""

_TYPES = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.DOUBLE: np.float64,
    TensorProto.UINT8: np.uint8,
}


class AdoptionError(ValueError):
    """A network cannot be adopted; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the file does not say; see the command's help.

    Attributes:
        task: some of depth, semantics, pose; empty to tell from the outputs.
        kinds: some of :data:`DEPTH_KINDS` and :data:`LABEL_KINDS`.
        outputs, inputs: names of tensors to use; empty to tell from their shapes.
        size: (width, height) of the network's images; ``None`` where it is fixed.
        layout: nchw, nhwc, or empty to tell from the shape.
        color: rgb or bgr.
        normalization: mean and standard deviation, of pixels in 0..1 in the network's order of
            channels; ``None`` where it is not known.
        classes: the classes in the order of their ids.
        depth_range: nearest and farthest depth; ``None`` for the kind's.
        camera: the camera of the training; ``None`` where it is not known.
        intrinsics: or its (fx, fy, cx, cy) in pixels of the network's images.
        focal: or its focal length in pixels, where it is the same at any size.
        offset: added to affine-inverse depth.
        pose_order: rotation-translation or translation-rotation.
        rotation: vector, axis times angle, or euler-xyz, angles of Rx Ry Rz.
        pose_inverse: whether the pose is T_current_previous.
        input_order: previous-current or current-previous.
        multiple: what width and height must be multiples of; 1 for anything.
        name, license: for the contract.
        preset: its name.
    """

    task: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    layout: str = ''
    color: str = 'rgb'
    normalization: tuple[Sequence[float], Sequence[float]] | None = None
    classes: tuple[SemanticClass, ...] = ()
    depth_range: tuple[float, float] | None = None
    camera: Intrinsics | None = None
    intrinsics: tuple[float, float, float, float] | None = None
    focal: float = 0.0
    offset: float = 0.0
    pose_order: str = 'rotation-translation'
    rotation: str = 'vector'
    pose_inverse: bool = False
    input_order: str = 'previous-current'
    multiple: int = 1
    name: str = ''
    license: str = ''
    preset: str = ''

    def kind(self, kinds: Sequence[str]) -> str:
        """The one of ``kinds`` that was given, or ''."""
        return next((k for k in self.kinds if k in kinds), '')


PRESETS: Mapping[str, dict[str, Any]] = {
    'depth-anything-v2': {
        'task': ('depth',),
        'kinds': ('affine-inverse',),
        'multiple': 14,
        'normalization': NORMALIZATIONS['imagenet'],
    },
    'depth-anything-v2-metric': {
        'task': ('depth',),
        'kinds': ('metric',),
        'multiple': 14,
        'normalization': NORMALIZATIONS['imagenet'],
    },
    # Its depth is for a focal length of 300 pixels, as its authors say.
    'depth-anything-v3-metric': {
        'task': ('depth',),
        'kinds': ('metric',),
        'multiple': 14,
        'focal': 300.0,
        'normalization': NORMALIZATIONS['imagenet'],
    },
    'midas': {
        'task': ('depth',),
        'kinds': ('affine-inverse',),
        'multiple': 32,
        'normalization': NORMALIZATIONS['imagenet'],
    },
    'dpt': {
        'task': ('depth',),
        'kinds': ('affine-inverse',),
        'multiple': 32,
        'normalization': NORMALIZATIONS['half'],
    },
    # Exported with the normalisation in the graph; canonical focal length 1000 pixels.
    'metric3d': {
        'task': ('depth',),
        'kinds': ('metric',),
        'focal': 1000.0,
        'normalization': NORMALIZATIONS['bytes'],
    },
    # Normalisation in its encoder; disparity between those of 0.1 and 100.
    'monodepth2': {
        'task': ('depth',),
        'kinds': ('sigmoid',),
        'multiple': 32,
        'normalization': NORMALIZATIONS['unit'],
    },
    'monodepth2-pose': {
        'task': ('pose',),
        'kinds': ('relative',),
        'multiple': 32,
        'pose_inverse': True,
        'normalization': NORMALIZATIONS['unit'],
    },
    'segformer': {
        'task': ('semantics',),
        'kinds': ('logits',),
        'multiple': 32,
        'normalization': NORMALIZATIONS['imagenet'],
    },
}
"""What the authors of well-known networks published about them."""


@dataclass(frozen=True, kw_only=True)
class _Inputs:
    """The network's images.

    Attributes:
        names: its input tensors: one, or for a pair of images two.
        shape: of each, all sizes known.
        nchw: whether channels come before rows.
        kind: element type, of TensorProto.
        paired: whether one input takes both images, one behind the other in its channels.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    nchw: bool
    kind: int
    paired: bool

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        height, width = self.shape[-2:] if self.nchw else self.shape[-3:-1]
        return width, height


@dataclass(frozen=True, kw_only=True)
class _Outputs:
    """What is taken from the network; an empty name is not taken.

    Attributes:
        depth, labels: tensors.
        pose: one tensor with six numbers, or rotation and translation.
        shapes: of the tensors that are taken.
        channels_last: whether the labels' channels come last.
        label_kind: logits or ids.
    """

    depth: str = ''
    labels: str = ''
    pose: tuple[str, ...] = ()
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    channels_last: bool = False
    label_kind: str = ''


@dataclass(frozen=True)
class Adopted:
    """A network with its contract.

    Attributes:
        model: the graph, with the contract in it.
        contract: the same contract.
        outputs: its outputs for the pictures that it was tried on.
        difference: by output, how far from the foreign network's; for labels, the share of pixels.
        notes: what was guessed, and what may be wrong.
    """

    model: onnx.ModelProto
    contract: ModelContract
    outputs: dict[str, np.ndarray]
    difference: dict[str, float]
    notes: list[str]


def adopt(path: Path, options: Options, pictures: Sequence[np.ndarray]) -> Adopted:
    """Wrap a foreign network into the contract, and try it.

    Args:
        path: ONNX file; its external data, if any, beside it.
        options: what the file does not say.
        pictures: uint8 (H, W, 3) RGB to try it on, one or two. A pose network sees a single one
            moved a little as the second.

    Raises:
        AdoptionError: if the network, or an option, cannot be used.
        ContractError, EngineError: if the result does not run.
    """
    notes: list[str] = []
    model = _load(path)
    inputs = _find_inputs(model, options, notes)
    _fix_sizes(model, inputs)
    images = [cv2.resize(p, inputs.size, interpolation=cv2.INTER_AREA) for p in pictures]
    if len(images) == 1:
        images.append(np.roll(images[0], max(1, inputs.size[0] // 64), axis=1))
    found = _run_foreign(model, _prepared(images, inputs, options), inputs)
    outputs = _find_outputs(found, inputs, options, notes)
    contract = _contract(path, inputs, outputs, options, notes)
    adopted = _wrap(model, inputs, outputs, options, contract)
    expected = _expected(found, inputs, outputs, options, contract)
    actual = _run_adopted(adopted, contract, images)
    difference = _compare(actual, expected, contract, COARSE_BOUNDS if _coarse(model) else BOUNDS)
    notes += _remarks(actual, contract)
    try:
        check_operators(adopted)
    except EngineError as error:
        notes.append(f'{error}. Other runtimes run it')
    return Adopted(adopted, contract, actual, difference, notes)


# Reading ------------------------------------------------------------------------------------------


def _load(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        what = 'is a folder' if path.is_dir() else 'does not exist'
        raise AdoptionError(f"model '{path}' {what}; give an ONNX file")
    try:
        model = onnx.load(path)
    except (DecodeError, OSError, ValueError, onnx.checker.ValidationError) as error:
        raise AdoptionError(
            f"model '{path}' cannot be read as ONNX ({error}); if it has external "
            'data, that must lie beside it under its own name'
        ) from error
    if not model.graph.node:
        raise AdoptionError(
            f"model '{path}' holds no graph; the file is damaged or of another kind"
        )
    if any(p.key == METADATA_KEY for p in model.metadata_props):
        raise AdoptionError(f"model '{path}' is a depth_ros model already; use it as it is")
    if model.functions:
        model = inliner.inline_local_functions(model)
    opset = next((o.version for o in model.opset_import if o.domain in ('', 'ai.onnx')), 0)
    if opset not in _OWN_OPSET:
        try:
            model = version_converter.convert_version(model, 18)
        except Exception as error:  # the converter, C++, has no types of its own
            raise AdoptionError(
                f"model '{path}' has opset {opset}, which cannot be converted to "
                f'18 ({error}); export it with opset 18'
            ) from error
    weights = {i.name for i in model.graph.initializer}
    images = [v for v in model.graph.input if v.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(images)
    return model


def _find_inputs(model: onnx.ModelProto, options: Options, notes: list[str]) -> _Inputs:
    values = {v.name: v for v in model.graph.input}
    described = ', '.join(f"'{n}' {_dims(v)}" for n, v in values.items()).replace('None', '?')
    unknown = set(options.inputs) - set(values)
    if unknown:
        raise AdoptionError(f'no input is called {sorted(unknown)}; there are {described}')
    names = options.inputs or tuple(values)
    if not names:
        raise AdoptionError('the network has no input; export it with its image as one')
    other = [n for n in values if n not in names or len(_dims(values[n])) not in (4, 5)]
    if other:
        raise AdoptionError(
            f'the network needs more than images ({described}): the nodes have no {sorted(other)} '
            'to give, such as intrinsics, queries or a state; export it without'
        )
    if len(names) > 2:
        raise AdoptionError(
            f'the network takes {len(names)} images at a time ({described}); the '
            'nodes give one, or for a pose two'
        )
    shapes = [_dims(values[n]) for n in names]
    kinds = {values[n].type.tensor_type.elem_type for n in names}
    if any(s != shapes[0] for s in shapes) or len(kinds) > 1:
        raise AdoptionError(f'the two images differ in shape or type: {described}')
    kind, shape = kinds.pop(), shapes[0]
    if kind not in _TYPES:
        raise AdoptionError(
            f'images are {TensorProto.DataType.Name(kind)} ({described}); they '
            'must be float or uint8'
        )
    nchw, channels = _layout(shape, len(names), options, notes, described)
    if channels not in (3, 6) or (channels == 6 and len(names) > 1):
        raise AdoptionError(
            f'images have {channels} channels ({described}); they must have 3, or '
            '6 for a pair of images: export the network for colour images'
        )
    if any(d not in (None, 1) for d in (shape[:-3])):
        raise AdoptionError(
            f'the network takes {math.prod(d or 1 for d in shape[:-3])} images at '
            f'a time ({described}); export it for one'
        )
    fixed = shape[-2:] if nchw else shape[-3:-1]
    width, height = _size(fixed, _patch(model, options), options)
    middle = (channels, height, width) if nchw else (height, width, channels)
    return _Inputs(
        names=tuple(names),
        shape=(*(1 for _ in shape[:-3]), *middle),
        nchw=nchw,
        kind=kind,
        paired=channels == 6,
    )


def _dims(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    """Sizes of a tensor; None = any."""
    return tuple(d.dim_value if d.dim_value > 0 else None for d in value.type.tensor_type.shape.dim)


def _layout(
    shape: Sequence[int | None], images: int, options: Options, notes: list[str], described: str
) -> tuple[bool, int]:
    """Whether channels come first, and how many there are."""
    ends = {'nchw': shape[-3], 'nhwc': shape[-1]}
    layout = options.layout
    if not layout:
        fitting = [name for name, channels in ends.items() if channels in (3, 6)]
        if not fitting:
            raise AdoptionError(
                f'no channels of colour are seen in {described}: give --layout, or '
                'export the network for colour images'
            )
        layout = fitting[0]
        notes.append(f'guessed: layout {layout}, from {described}')
    # The number of images is what is asked for where the file leaves it open.
    return layout == 'nchw', ends[layout] or (6 if options.task == ('pose',) and images == 1 else 3)


def _patch(model: onnx.ModelProto, options: Options) -> int:
    """What sizes must be multiples of: the preset's, or the patches' that images are cut into."""
    weights = {i.name: i.dims for i in model.graph.initializer}
    patches = [1]
    for node in model.graph.node:
        if node.op_type == 'Conv' and len(dims := weights.get(node.input[1], ())) == 4:
            stride = next((list(a.ints) for a in node.attribute if a.name == 'strides'), [1, 1])
            if dims[1] == 3 and stride == list(dims[2:]) and stride[0] == stride[1]:
                patches.append(stride[0])
    return math.lcm(options.multiple, max(patches))


def _size(fixed: Sequence[int | None], multiple: int, options: Options) -> tuple[int, int]:
    """Width and height of the images."""
    height, width = fixed
    if height and width:
        if options.size not in (None, (width, height)):
            raise AdoptionError(
                f'--size is {options.size[0]}x{options.size[1]}, but the network '
                f'takes {width}x{height} only; leave --size out, or export it for '
                'another size'
            )
        return width, height
    step = multiple if multiple > 1 else 32
    example = 'x'.join(str(max(1, round(pixels / step)) * step) for pixels in (640, 360))
    if options.size is None:
        raise AdoptionError(
            'the network takes images of any size: choose one with --size, like '
            f"the camera's in shape, such as --size {example}"
        )
    for asked, size in zip(options.size, (width, height), strict=True):
        if size not in (None, asked) or asked % multiple or not 8 <= asked <= 8192:
            raise AdoptionError(
                f'--size {options.size[0]}x{options.size[1]} does not fit: the network takes '
                f'{width or "any width"} x {height or "any height"}, in multiples of {multiple}, '
                f'such as {example}'
            )
    return options.size


def _fix_sizes(model: onnx.ModelProto, inputs: _Inputs) -> None:
    """Write the sizes into the graph, and forget those that followed from the open ones."""
    for value in model.graph.input:
        value.CopyFrom(helper.make_tensor_value_info(value.name, inputs.kind, inputs.shape))
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField('shape')


# The foreign network, with numpy around it --------------------------------------------------------


def _normalization(inputs: _Inputs, options: Options) -> tuple[np.ndarray, np.ndarray]:
    """Factor and offset (3,) that make the network's input of bytes."""
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


def _prepared(
    images: Sequence[np.ndarray], inputs: _Inputs, options: Options
) -> dict[str, np.ndarray]:
    """The foreign network's input from images uint8 (H, W, 3), RGB, in the order of time."""
    factor, offset = _normalization(inputs, options)
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
        name: np.ascontiguousarray(tensor.reshape(inputs.shape).astype(_TYPES[inputs.kind]))
        for name, tensor in zip(inputs.names, tensors, strict=True)
    }


def _session(model: onnx.ModelProto, folder: str, simplified: str = '') -> Any:
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
        # No more: what comes then is for this processor.
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return onnxruntime.InferenceSession(str(path), settings, providers=['CPUExecutionProvider'])


def _run_foreign(
    model: onnx.ModelProto, given: Mapping[str, np.ndarray], inputs: _Inputs
) -> dict[str, np.ndarray]:
    """All outputs of the foreign network by name."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            session = _session(model, folder)
            names = [o.name for o in session.get_outputs()]
            values = session.run(names, dict(given))
        except AdoptionError:
            raise
        except Exception as error:  # the runtime has exception types of its own
            width, height = inputs.size
            raise AdoptionError(
                f'ONNX Runtime cannot run the network on images of {width}x{height}: {error}'
            ) from error
    return {
        name: value
        for name, value in zip(names, values, strict=True)
        if isinstance(value, np.ndarray)
    }


def _find_outputs(
    found: Mapping[str, np.ndarray], inputs: _Inputs, options: Options, notes: list[str]
) -> _Outputs:
    described = ', '.join(f"'{n}' {v.dtype} {list(v.shape)}" for n, v in found.items())
    unknown = set(options.outputs) - set(found)
    if unknown:
        raise AdoptionError(f'no output is called {sorted(unknown)}; there are {described}')
    names = options.outputs or tuple(found)
    wanted = options.task
    if inputs.paired or len(inputs.names) == 2:
        if wanted not in ((), ('pose',)):
            raise AdoptionError('the network takes two images at a time; only pose is told of two')
        return _find_pose({n: found[n] for n in names}, options, described)
    if 'pose' in wanted:
        raise AdoptionError(
            'a pose needs two images, as two inputs or as one with 6 channels; '
            'the network takes one'
        )
    maps = {n: m for n in names if (m := _as_map(found[n], inputs)) is not None}
    kind = options.kind(LABEL_KINDS)
    choice = {
        'depth': [
            n
            for n, (count, _) in maps.items()
            if count == 1 and found[n].dtype.kind == 'f' and kind != 'ids'
        ],
        'semantics': [
            n
            for n, (count, _) in maps.items()
            if (count > 1 and found[n].dtype.kind == 'f' and kind != 'ids')
            or (count == 1 and kind != 'logits' and (found[n].dtype.kind in 'iu' or kind == 'ids'))
        ],
    }
    instances = [
        n for n in found if n not in maps and found[n].ndim == 3 and min(found[n].shape[1:]) > 1
    ]
    if instances and maps and not options.outputs and not choice['depth']:
        raise AdoptionError(
            f'the network tells instances ({described}): boxes, queries or mask prototypes, which '
            'the contract, with one class for each pixel, cannot express. Take a semantic '
            'segmentation network, or if one output does hold the classes, name it with --outputs'
        )
    if not maps:
        width, height = inputs.size
        raise AdoptionError(
            f'no output is an image in proportion to {width}x{height}: {described}. If the network '
            'was exported for one size, though the file says any, give that with --size; outputs '
            'of other kinds cannot be used'
        )
    if not wanted:
        wanted = tuple(task for task, fitting in choice.items() if fitting)
        if len(wanted) != 1:
            raise AdoptionError(
                'the outputs may be depth, classes, both or neither: give --task, '
                f'and --outputs if there are several; there are {described}'
            )
        notes.append(f'guessed: task {wanted[0]}, from the outputs {described}')
    chosen: dict[str, str] = {}
    for task in wanted:
        fitting = choice[task]
        named = [n for n in fitting if re.search(_HINTS[task], n.lower())]
        if len(fitting) > 1 and len(named) == 1:
            notes.append(f"guessed: {task} is '{named[0]}', by its name")
            fitting = named
        if len(fitting) != 1:
            what = (
                'choose one with --outputs'
                if fitting
                else 'export the network with an image '
                'of it, of one channel for depth, of a channel for each class or of ids'
            )
            raise AdoptionError(
                f'{len(fitting) or "no"} outputs may be {task}: {what}; there are {described}'
            )
        chosen[task] = fitting[0]
    depth, labels = chosen.get('depth', ''), chosen.get('semantics', '')
    if labels and not kind:
        kind = 'logits' if maps[labels][0] > 1 else 'ids'
        notes.append(f"guessed: '{labels}' holds {kind}")
    if len(found) > len(chosen):
        notes.append(f'left out: {", ".join(n for n in found if n not in chosen.values())}')
    return _Outputs(
        depth=depth,
        labels=labels,
        shapes={n: found[n].shape for n in chosen.values()},
        channels_last=bool(labels) and maps[labels][1],
        label_kind=kind,
    )


def _as_map(value: np.ndarray, inputs: _Inputs) -> tuple[int, bool] | None:
    """Channels of an output that is an image as the input is, and whether they come last.

    None for what is no image.
    """
    width, height = inputs.size

    def fits(h: int, w: int) -> bool:
        # The image's size by a whole number, rounded either way, or times one. Much else, such as
        # a hundred queries of a hundred classes, has about an image's proportions.
        if min(h, w) < 4:
            return False
        down, up = max(1, round(height / h)), max(1, round(h / height))
        return (h, w) == (up * height, up * width) or (
            h in (height // down, -(-height // down)) and w in (width // down, -(-width // down))
        )

    if value.ndim < 2 or any(d != 1 for d in value.shape[:-3]):
        return None
    channels, rows, columns = (1, *value.shape)[-3:]
    first = (channels, False) if fits(rows, columns) else None
    last = (columns, True) if fits(channels, rows) else None
    return (first or last) if inputs.nchw else (last or first)


def _find_pose(found: Mapping[str, np.ndarray], options: Options, described: str) -> _Outputs:
    """Six numbers in one output, or rotation and translation in two."""
    # Networks for several sources say more; with two images, the first counts.
    real = {n: v for n, v in found.items() if v.dtype.kind == 'f'}
    whole, halves = (
        [n for n, v in real.items() if v.size == k or v.shape[-1:] == (k,)] for k in (6, 3)
    )
    names = options.outputs
    if len(whole) == 1:
        chosen = tuple(whole)
    elif len(halves) == 2:
        if len(names) != 2:
            rotation = [n for n in halves if re.search('rot|ang|axis', n.lower())]
            if len(rotation) != 1:
                raise AdoptionError(
                    'which output is the rotation? Name rotation and translation, '
                    f'in this order, with --outputs; there are {described}'
                )
            names = (*rotation, *(n for n in halves if n not in rotation))
        chosen = tuple(names)
    else:
        raise AdoptionError(
            'a pose must be 6 numbers in one output, or a rotation vector and a translation of 3 '
            f'each; there are {described}. Matrices and quaternions cannot be used: export the '
            'network with a rotation vector'
        )
    return _Outputs(pose=chosen, shapes={n: found[n].shape for n in chosen})


def _expected(
    found: Mapping[str, np.ndarray],
    inputs: _Inputs,
    outputs: _Outputs,
    options: Options,
    contract: ModelContract,
) -> dict[str, np.ndarray]:
    """What the adopted network must give, computed with numpy from what the foreign one gave."""
    size = inputs.size
    result: dict[str, np.ndarray] = {}
    if outputs.depth:
        raw = found[outputs.depth].astype(np.float64)
        raw = cv2.resize(raw.reshape(_map_size(raw.shape)), size, interpolation=cv2.INTER_LINEAR)
        near, far = contract.depth_range
        kind = options.kind(DEPTH_KINDS)
        if kind == 'affine-inverse':
            raw = 1 / np.maximum(raw + options.offset, 1 / far)
        elif kind == 'inverse':
            raw = 1 / np.maximum(raw, 0.5 / far)
        elif kind == 'sigmoid':
            raw = 1 / (1 / far + (1 / near - 1 / far) * raw)
        result['depth'] = raw
    if outputs.labels:
        raw = found[outputs.labels]
        if outputs.label_kind == 'ids':
            ids = raw.reshape(_map_size(raw.shape)).astype(np.float64)
            ids = cv2.resize(ids, size, interpolation=cv2.INTER_NEAREST_EXACT)
            known = (ids > -0.5) & (ids < len(contract.classes) - 0.5)
            result['labels'] = np.where(known, ids, UNLABELED).astype(np.uint8)
        else:
            scores = raw.reshape(raw.shape[-3:]).astype(np.float32)
            scores = scores if outputs.channels_last else scores.transpose(1, 2, 0)
            # One channel at a time: OpenCV takes no more than four of float.
            best = np.stack(
                [
                    cv2.resize(scores[..., i], size, interpolation=cv2.INTER_LINEAR)
                    for i in range(scores.shape[-1])
                ]
            )
            result['labels'] = best.argmax(axis=0).astype(np.uint8)
    if outputs.pose:
        parts = [found[n].astype(np.float64).reshape(-1) for n in outputs.pose]
        vector = parts[0][:6] if len(parts) == 1 else np.concatenate([p[:3] for p in parts])
        if len(parts) == 1 and options.pose_order == 'translation-rotation':
            vector = np.roll(vector, 3)
        if options.rotation == 'euler-xyz':
            turns = [rotation_from_vector(v * np.eye(3)[i]) for i, v in enumerate(vector[:3])]
            vector = np.concatenate(
                (vector_from_rotation(turns[0] @ turns[1] @ turns[2]), vector[3:])
            )
        if options.pose_inverse:
            step = np.linalg.inv(pose(rotation_from_vector(vector[:3]), vector[3:]))
            vector = np.concatenate((-vector[:3], step[:3, 3]))
        result['pose'] = vector
    return result


def _map_size(shape: Sequence[int]) -> tuple[int, int]:
    """Height and width of an output with one channel."""
    return tuple(d for d in shape if d > 1)


# The graph ----------------------------------------------------------------------------------------


class _Builder:
    """Nodes and constants to be added to a graph."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []

    def __call__(
        self, kind: str, *inputs: str | np.ndarray, output: str = '', **attributes: Any
    ) -> str:
        """Add a node with one output; returns its name. Arrays become constants."""
        names = []
        for value in inputs:
            if isinstance(value, np.ndarray):
                self.tensors.append(
                    numpy_helper.from_array(
                        np.ascontiguousarray(value), f'adopted/constant{len(self.tensors)}'
                    )
                )
                value = self.tensors[-1].name
            names.append(value)
        output = output or f'adopted/{kind.lower()}{len(self.nodes)}'
        self.nodes.append(
            helper.make_node(
                kind, names, [output], name=f'adopted/node{len(self.nodes)}', **attributes
            )
        )
        return output

    def resize(self, image: str, shape: Sequence[int], size: tuple[int, int], mode: str) -> str:
        """Resize an image [1, C, H, W] of known ``shape`` to (width, height)."""
        if tuple(shape[-2:]) == size[::-1]:
            return image
        return self(
            'Resize',
            image,
            '',
            '',
            _indices(*shape[:2], *size[::-1]),
            mode=mode,
            coordinate_transformation_mode='half_pixel',
            nearest_mode='round_prefer_ceil',
        )


def _real(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def _indices(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def _wrap(
    model: onnx.ModelProto,
    inputs: _Inputs,
    outputs: _Outputs,
    options: Options,
    contract: ModelContract,
) -> onnx.ModelProto:
    """The foreign network between what is added, as the contract says."""
    net = compose.add_prefix(model, 'net/')
    add = _Builder()
    _add_inputs(add, inputs, options, contract)
    before = len(add.nodes)
    if outputs.depth:
        _add_depth(add, outputs, options, contract)
    if outputs.labels:
        _add_labels(add, outputs, contract)
    if outputs.pose:
        _add_pose(add, outputs, options)
    types = {'uint8': TensorProto.UINT8, 'float32': TensorProto.FLOAT}
    shapes = contract.tensor_shapes()
    ends = [
        [helper.make_tensor_value_info(n, types[shapes[n][0]], shapes[n][1]) for n in names]
        for names in (contract.inputs, contract.outputs)
    ]
    nodes, used = _needed(
        [*add.nodes[:before], *net.graph.node, *add.nodes[before:]], contract.outputs
    )
    weights = [i for i in (*net.graph.initializer, *add.tensors) if i.name in used]
    graph = helper.make_graph(nodes, 'adopted', *ends, weights)
    graph.sparse_initializer.extend(net.graph.sparse_initializer)
    result = helper.make_model(
        graph, opset_imports=net.opset_import, ir_version=max(net.ir_version, 4)
    )
    result = _simplified(result)
    write_contract(result, contract)
    return result


def _needed(
    nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]
) -> tuple[list[onnx.NodeProto], set[str]]:
    """The nodes that outputs depend on, in their order, and the names of all that they read."""

    def read(node: onnx.NodeProto) -> set[str]:
        bodies = [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
        inner = [name for body in bodies for n in body.node for name in read(n)]
        return {*node.input, *inner, *(o.name for body in bodies for o in body.output)}

    used, kept = set(outputs), []
    for node in reversed(nodes):
        if not used.isdisjoint(node.output):
            used |= read(node)
            kept.append(node)
    return kept[::-1], used


def _add_inputs(add: _Builder, inputs: _Inputs, options: Options, contract: ModelContract) -> None:
    factor, offset = (v.astype(np.float32) for v in _normalization(inputs, options))
    order = list(contract.inputs)
    if options.input_order == 'current-previous':
        order.reverse()
    tensors = []
    for name in order:
        bytes_taken = inputs.kind == TensorProto.UINT8
        tensor = name if bytes_taken else add('Cast', name, to=TensorProto.FLOAT)
        if options.color == 'bgr':
            tensor = add('Gather', tensor, _indices(2, 1, 0), axis=3)
        if (factor != 1).any():
            tensor = add('Mul', tensor, factor)
        if offset.any():
            tensor = add('Add', tensor, offset)
        if inputs.nchw:
            tensor = add('Transpose', tensor, perm=[0, 3, 1, 2])
        tensors.append(tensor)
    if inputs.paired:
        tensors = [add('Concat', *tensors, axis=1 if inputs.nchw else 3)]
    for name, tensor in zip(inputs.names, tensors, strict=True):
        if len(inputs.shape) > 4:
            tensor = add('Reshape', tensor, _indices(*inputs.shape))
        last = {} if inputs.kind == TensorProto.UINT8 else {'to': inputs.kind}
        add('Cast' if last else 'Identity', tensor, output=f'net/{name}', **last)


def _add_depth(add: _Builder, outputs: _Outputs, options: Options, contract: ModelContract) -> None:
    size = contract.input_width, contract.input_height
    height, width = _map_size(outputs.shapes[outputs.depth])
    raw = add('Cast', f'net/{outputs.depth}', to=TensorProto.FLOAT)
    raw = add('Reshape', raw, _indices(1, 1, height, width))
    # Interpolated as the network gives it: inverse depth where that is what it gives.
    raw = add.resize(raw, (1, 1, height, width), size, 'linear')
    near, far = contract.depth_range
    kind = options.kind(DEPTH_KINDS)
    if kind == 'affine-inverse':
        if options.offset:
            raw = add('Add', raw, _real(options.offset))
        raw = add('Reciprocal', add('Max', raw, _real(1 / far)))
    elif kind == 'inverse':
        # Nothing, or less, is farther than the farthest, and so invalid.
        raw = add('Reciprocal', add('Max', raw, _real(0.5 / far)))
    elif kind == 'sigmoid':
        raw = add('Mul', raw, _real(1 / near - 1 / far))
        raw = add('Reciprocal', add('Add', raw, _real(1 / far)))
    add('Reshape', raw, _indices(*size[::-1]), output='depth')


def _add_labels(add: _Builder, outputs: _Outputs, contract: ModelContract) -> None:
    size = contract.input_width, contract.input_height
    raw = add('Cast', f'net/{outputs.labels}', to=TensorProto.FLOAT)
    shape = outputs.shapes[outputs.labels]
    if outputs.label_kind == 'ids':
        shape = (1, 1, *_map_size(shape))
        ids = add('Reshape', raw, _indices(*shape))
        ids = add.resize(ids, shape, size, 'nearest')
        known = add(
            'And',
            add('Greater', ids, _real(-0.5)),
            add('Less', ids, _real(len(contract.classes) - 0.5)),
        )
        ids = add('Where', known, ids, _real(UNLABELED))
    else:
        shape = (1, *shape[-3:])
        raw = add('Reshape', raw, _indices(*shape))
        if outputs.channels_last:
            raw = add('Transpose', raw, perm=[0, 3, 1, 2])
            shape = (1, shape[3], *shape[1:3])
        ids = add('ArgMax', add.resize(raw, shape, size, 'linear'), axis=1, keepdims=0)
    ids = add('Reshape', ids, _indices(*size[::-1]))
    add('Cast', ids, output='labels', to=TensorProto.UINT8)


def _add_pose(add: _Builder, outputs: _Outputs, options: Options) -> None:
    flat = [
        add('Reshape', add('Cast', f'net/{n}', to=TensorProto.FLOAT), _indices(-1))
        for n in outputs.pose
    ]
    first, second = (
        (flat[0], _indices(0, 1, 2)),
        (flat[-1], _indices(*((3, 4, 5) if len(flat) == 1 else (0, 1, 2)))),
    )
    if len(flat) == 1 and options.pose_order == 'translation-rotation':
        first, second = second, first
    rotation, translation = add('Gather', *first, axis=0), add('Gather', *second, axis=0)
    if options.rotation == 'euler-xyz':
        rotation = _add_euler(add, rotation)
    if options.pose_inverse:
        # The inverse of x -> R(r) x + t turns by -r and moves by -R(-r) t: Rodrigues' formula.
        rotation = add('Neg', rotation)
        squared = add('ReduceSum', add('Mul', rotation, rotation), keepdims=1)
        angle = add('Sqrt', add('Add', squared, _real(1e-20)))
        axis = add('Div', rotation, angle)
        y, z = _indices(1, 2, 0), _indices(2, 0, 1)
        cross = add(
            'Sub',
            *(
                add('Mul', add('Gather', axis, a, axis=0), add('Gather', translation, b, axis=0))
                for a, b in ((y, z), (z, y))
            ),
        )
        along = add('ReduceSum', add('Mul', axis, translation), keepdims=1)
        cosine = add('Cos', angle)
        turned = add('Add', add('Mul', translation, cosine), add('Mul', cross, add('Sin', angle)))
        rest = add('Mul', add('Mul', axis, along), add('Sub', _real(1), cosine))
        translation = add('Neg', add('Add', turned, rest))
    add('Concat', rotation, translation, output='pose', axis=0)


def _add_euler(add: _Builder, angles: str) -> str:
    """The rotation vector of Rx Ry Rz, through the product of the three quaternions."""
    half = add('Mul', angles, _real(0.5))
    parts = [
        [add('Gather', value, _indices(i), axis=0) for i in range(3)]
        for value in (add('Cos', half), add('Sin', half))
    ]

    def product(*sines: int) -> str:
        x, y, z = (parts[i in sines][i] for i in range(3))
        return add('Mul', add('Mul', x, y), z)

    real = add('Sub', product(), product(0, 1, 2))
    imaginary = add(
        'Concat',
        add('Add', product(0), product(1, 2)),
        add('Sub', product(1), product(0, 2)),
        add('Add', product(2), product(0, 1)),
        axis=0,
    )
    squared = add('ReduceSum', add('Mul', imaginary, imaginary), keepdims=1)
    length = add('Sqrt', add('Add', squared, _real(1e-20)))
    # Twice the arc tangent of length / real: between two images, a turn is far below 180 degrees.
    angle = add('Mul', add('Atan', add('Div', length, real)), _real(2))
    return add('Mul', imaginary, add('Div', angle, length))


def _coarse(model: onnx.ModelProto) -> bool:
    """Whether a network computes in half precision or integers."""
    return any(i.data_type == TensorProto.FLOAT16 for i in model.graph.initializer) or any(
        'Quantize' in node.op_type or 'Integer' in node.op_type for node in model.graph.node
    )


def _simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with everything computed that follows from the fixed sizes.

    Exports for any size compute with shapes, which TensorRT reads with difficulty. Networks in half
    precision or integers stay as they are: ONNX Runtime would put conversions to float into them.
    """
    if _coarse(model):
        return model
    with tempfile.TemporaryDirectory() as folder:
        path = f'{folder}/simplified.onnx'
        try:
            _session(model, folder, path)
            result = onnx.load(path)
        except AdoptionError:
            raise
        except Exception as error:  # the runtime has exception types of its own
            raise AdoptionError(f'ONNX Runtime cannot load the adopted network: {error}') from error
    used = {node.domain for node in result.graph.node} | {''}
    opsets = [o for o in result.opset_import if o.domain in used]
    del result.opset_import[:]
    result.opset_import.extend(opsets)
    return result


# The contract -------------------------------------------------------------------------------------


def _contract(
    path: Path, inputs: _Inputs, outputs: _Outputs, options: Options, notes: list[str]
) -> ModelContract:
    width, height = inputs.size
    kind = options.kind(DEPTH_KINDS)
    if outputs.depth and not kind:
        raise AdoptionError(
            'nothing in the file tells what its depth means: give --output-kind (or --preset): '
            'metric, metres; relative, metres times an unknown factor; inverse, an unknown factor '
            'over metres; affine-inverse, the same plus an unknown shift (MiDaS, Depth Anything); '
            'sigmoid, between the inverses of --depth-range (monodepth2)'
        )
    if outputs.pose and kind not in ('', 'metric', 'relative'):
        raise AdoptionError(f'--output-kind {kind} is of depth; a pose is metric or relative')
    metric = kind == 'metric'
    camera = options.camera
    if options.intrinsics:
        camera = Intrinsics(*options.intrinsics, width, height)
    if camera is None and options.focal:
        camera = Intrinsics(
            options.focal, options.focal, (width - 1) / 2, (height - 1) / 2, width, height
        )
    if camera is None and outputs.depth and metric:
        raise AdoptionError(
            'depth in metres belongs to the camera that the network was trained for, which the '
            'file does not name: give its --intrinsics or --camera-info. Where the network sees '
            "the camera's field of view as it is, give your own camera's: depth is then taken as "
            'it comes'
        )
    if camera is None:
        camera = Intrinsics(width, width, (width - 1) / 2, (height - 1) / 2, width, height)
        if outputs.pose or (outputs.depth and kind != 'affine-inverse'):
            notes.append(
                f'guessed: a training camera with a focal length of {width} pixels (53 '
                'degrees wide); give --intrinsics or --camera-info if you know it'
            )
    camera = camera.resized(width, height)
    given = [
        n
        for n, o in (('depth', outputs.depth), ('labels', outputs.labels), ('pose', outputs.pose))
        if o
    ]
    provenance = {
        'adopted_from': path.name,
        'sha256': file_hash(path),
        'license': options.license or 'not stated',
    }
    if options.preset:
        provenance['preset'] = options.preset
    if kind:
        provenance['output_kind'] = kind
    return ModelContract(
        task='pose' if outputs.pose else 'perception',
        name=options.name or path.stem,
        input_width=width,
        input_height=height,
        intrinsics=(camera.fx, camera.fy, camera.cx, camera.cy),
        outputs=tuple(given),
        depth_range=(options.depth_range or _RANGES[kind]) if outputs.depth else None,
        metric=metric,
        classes=_classes(outputs, options),
        provenance=provenance,
        pose_convention=POSE_CONVENTION if outputs.pose else '',
        affine_invariant=bool(outputs.depth) and kind == 'affine-inverse',
    )


def _classes(outputs: _Outputs, options: Options) -> tuple[SemanticClass, ...]:
    if not outputs.labels:
        return ()
    if not options.classes:
        raise AdoptionError(
            'nothing in the file tells what its classes are: give --classes, '
            'cityscapes or a file with their names'
        )
    if outputs.label_kind == 'logits':
        shape = outputs.shapes[outputs.labels]
        count = shape[-1] if outputs.channels_last else shape[-3]
        if count > UNLABELED:
            raise AdoptionError(
                f'the network knows {count} classes; the contract has ids for {UNLABELED}'
            )
        if count != len(options.classes):
            raise AdoptionError(
                f'the network has {count} classes, --classes names {len(options.classes)}'
            )
    return options.classes


# Trying -------------------------------------------------------------------------------------------


def _run_adopted(
    model: onnx.ModelProto, contract: ModelContract, images: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
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


def _compare(
    actual: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    contract: ModelContract,
    bounds: tuple[float, float],
) -> dict[str, float]:
    """How far the outputs are from what they must be; see :class:`Adopted`."""
    difference = {}
    for name, value in actual.items():
        wanted = expected[name]
        if name == 'labels':
            difference[name] = float((value == wanted).mean())
            bad = difference[name] < bounds[1]
        else:
            # Inverse depth may come near 0, where a relative error says nothing.
            inverse = name == 'depth' and contract.provenance['output_kind'] in (
                'inverse',
                'affine-inverse',
            )
            a, b = (
                1 / v.astype(np.float64) if inverse else v.astype(np.float64)
                for v in (value, wanted)
            )
            size = np.maximum(np.abs(b), max(np.abs(b).mean(), 1e-12))
            difference[name] = float((np.abs(a - b) / size).max())
            bad = not difference[name] <= bounds[0]
        if bad:
            raise AdoptionError(
                f"{name} of the adopted network differs from the foreign one's "
                f'({difference[name]:.3g}); nothing was written'
            )
    return difference


def _remarks(found: Mapping[str, np.ndarray], contract: ModelContract) -> list[str]:
    """What looks wrong in the outputs."""
    remarks = []
    if 'depth' in found:
        depth, (near, far) = found['depth'], contract.depth_range
        valid = (depth >= near) & (depth <= far)
        if not valid.any():
            raise AdoptionError(
                f'no depth is within {near:g} to {far:g} ({depth.min():.3g} to '
                f'{depth.max():.3g} on the picture): give another --depth-range, '
                '--output-kind or normalisation'
            )
        if not valid.all():
            remarks.append(
                f'warning: {1 - valid.mean():.1%} of the depth is outside of {near:g} '
                f'to {far:g}, and so invalid'
            )
        if contract.affine_invariant and (share := (depth >= far * 0.999).mean()) > 0.5:
            remarks.append(
                f'warning: {share:.0%} of the inverse depth is 0 or less; if it may be '
                'negative, add something with --offset'
            )
        if depth.max() < depth.min() * (1 + 1e-4):
            remarks.append('warning: depth is the same everywhere; is the normalisation right?')
    if 'labels' in found and len(np.unique(found['labels'])) == 1:
        remarks.append('warning: the whole picture is one class; is the normalisation right?')
    return remarks
