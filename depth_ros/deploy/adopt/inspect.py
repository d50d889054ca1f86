"""Reading a foreign network: what its inputs and outputs are."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper

from depth_ros.deploy.adopt.options import DEPTH_KINDS, LABEL_KINDS, AdoptionError, Options

_HINTS = {'depth': 'depth|disp', 'semantics': 'logit|seg|label|^out'}
"""What names of outputs hint at, by task."""

_BESIDE_DEPTH = 'mask|conf|sky|valid|prob|uncert'
"""Names of outputs that networks give beside depth, as images of one channel, too."""

ELEMENT_TYPES: Mapping[int, type[np.generic]] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.DOUBLE: np.float64,
    TensorProto.UINT8: np.uint8,
}


@dataclass(frozen=True, kw_only=True)
class NetworkInputs:
    """How a network wants its images.

    Attributes:
        names: input tensors: one, or two for a pair of images.
        shape: shape of each, with all sizes known.
        nchw: whether channels come before rows.
        kind: element type, of TensorProto.
        paired: whether one input takes both images of a pair, in 6 channels.
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
class NetworkOutputs:
    """The outputs of a network that are used.

    Attributes:
        depth, labels: names of tensors; empty if there is none.
        pose: names of one tensor with six numbers, or of rotation and translation.
        shapes: shapes of these tensors, by name.
        channels_last: whether the labels' channels come last.
        label_kind: logits or ids.
    """

    depth: str = ''
    labels: str = ''
    pose: tuple[str, ...] = ()
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    channels_last: bool = False
    label_kind: str = ''


def find_inputs(model: onnx.ModelProto, options: Options, notes: list[str]) -> NetworkInputs:
    """Find out how a network wants its images.

    Args:
        model: the network.
        options: what its file does not say.
        notes: gets what was guessed.

    Raises:
        AdoptionError: if nodes cannot give what the network needs, or an option does not fit it.
    """
    values = {v.name: v for v in model.graph.input}
    described = ', '.join(f"'{n}' {_dims(v)}" for n, v in values.items()).replace('None', '?')
    names = _image_names(values, options, described)
    shapes = [_dims(values[n]) for n in names]
    kinds = {values[n].type.tensor_type.elem_type for n in names}
    if any(s != shapes[0] for s in shapes) or len(kinds) > 1:
        raise AdoptionError(f'the two images differ in shape or type: {described}')
    kind, shape = kinds.pop(), shapes[0]
    if kind not in ELEMENT_TYPES:
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
    return NetworkInputs(
        names=tuple(names),
        shape=(*(1 for _ in shape[:-3]), *middle),
        nchw=nchw,
        kind=kind,
        paired=channels == 6,
    )


def _image_names(
    values: Mapping[str, onnx.ValueInfoProto], options: Options, described: str
) -> tuple[str, ...]:
    """The names of the inputs that are images, which must be all inputs."""
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
            'to give, such as intrinsics, queries or a state; export it without, or with a '
            'constant in its place'
        )
    if len(names) > 2:
        raise AdoptionError(
            f'the network takes {len(names)} images at a time ({described}); the '
            'nodes give one, or for a pose two'
        )
    return names


def _dims(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    """Sizes of a tensor; ``None`` for a size that is open."""
    return tuple(d.dim_value if d.dim_value > 0 else None for d in value.type.tensor_type.shape.dim)


def _layout(
    shape: Sequence[int | None], images: int, options: Options, notes: list[str], described: str
) -> tuple[bool, int]:
    """Whether channels come first, and their number."""
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
    # If the file leaves the number of channels open, the task decides.
    return layout == 'nchw', ends[layout] or (6 if options.task == ('pose',) and images == 1 else 3)


def _patch(model: onnx.ModelProto, options: Options) -> int:
    """What width and height must be multiples of.

    The preset says it, and the convolutions that cut images into patches.
    """
    weights = {i.name: i.dims for i in model.graph.initializer}
    patches = [1]
    for node in model.graph.node:
        if node.op_type == 'Conv' and len(dims := weights.get(node.input[1], ())) == 4:
            stride = next((list(a.ints) for a in node.attribute if a.name == 'strides'), [1, 1])
            if dims[1] == 3 and stride == list(dims[2:]) and stride[0] == stride[1]:
                patches.append(stride[0])
    return math.lcm(options.multiple, max(patches))


def _size(fixed: Sequence[int | None], multiple: int, options: Options) -> tuple[int, int]:
    """Width and height of the images, from the file or from --size."""
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


def fix_sizes(model: onnx.ModelProto, inputs: NetworkInputs) -> None:
    """Write the sizes of the images into the graph, and remove shapes that depended on them."""
    for value in model.graph.input:
        value.CopyFrom(helper.make_tensor_value_info(value.name, inputs.kind, inputs.shape))
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField('shape')


def find_outputs(
    found: Mapping[str, np.ndarray], inputs: NetworkInputs, options: Options, notes: list[str]
) -> NetworkOutputs:
    """Find out which outputs of a network are depth, labels or motion.

    Args:
        found: all outputs, by name, for one picture or pair of pictures.
        inputs: the network's images.
        options: what its file does not say.
        notes: gets what was guessed.

    Raises:
        AdoptionError: if the contract has no place for the outputs, or it is not clear what they
            are.
    """
    described = ', '.join(f"'{n}' {v.dtype} {list(v.shape)}" for n, v in found.items())
    unknown = set(options.outputs) - set(found)
    if unknown:
        raise AdoptionError(f'no output is called {sorted(unknown)}; there are {described}')
    names = options.outputs or tuple(found)
    if inputs.paired or len(inputs.names) == 2:
        if options.task not in ((), ('pose',)):
            raise AdoptionError('the network takes two images at a time; only pose is told of two')
        return _find_pose({n: found[n] for n in names}, options, described)
    if 'pose' in options.task:
        raise AdoptionError(
            'a pose needs two images, as two inputs or as one with 6 channels; '
            'the network takes one'
        )
    maps = {n: m for n in names if (m := _as_map(found[n], inputs)) is not None}
    kind = options.kind(LABEL_KINDS)
    candidates = _candidates(found, maps, kind)
    if not options.outputs:
        # Only by its name does a mask differ from depth.
        candidates['depth'] = [
            n for n in candidates['depth'] if not re.search(_BESIDE_DEPTH, n.lower())
        ]
    _check_maps(found, maps, inputs, options, bool(candidates['depth']), described)
    chosen = {
        task: _choose(task, candidates[task], notes, described)
        for task in _tasks(candidates, options, notes, described)
    }
    depth, labels = chosen.get('depth', ''), chosen.get('semantics', '')
    if labels and not kind:
        kind = 'logits' if maps[labels][0] > 1 else 'ids'
        notes.append(f"guessed: '{labels}' holds {kind}")
    if len(found) > len(chosen):
        notes.append(f'left out: {", ".join(n for n in found if n not in chosen.values())}')
    return NetworkOutputs(
        depth=depth,
        labels=labels,
        shapes={n: found[n].shape for n in chosen.values()},
        channels_last=bool(labels) and maps[labels][1],
        label_kind=kind,
    )


def _candidates(
    found: Mapping[str, np.ndarray], maps: Mapping[str, tuple[int, bool]], kind: str
) -> dict[str, list[str]]:
    """The outputs that may be depth, and those that may be classes, by task.

    Args:
        found: all outputs.
        maps: channels of those that are images, see :func:`_as_map`.
        kind: logits, ids, or '' if it is not known which the classes are.
    """

    def is_depth(name: str) -> bool:
        return maps[name][0] == 1 and found[name].dtype.kind == 'f' and kind != 'ids'

    def is_semantics(name: str) -> bool:
        type_kind = found[name].dtype.kind
        if maps[name][0] > 1:
            return type_kind == 'f' and kind != 'ids'
        return kind != 'logits' and (type_kind in 'iu' or kind == 'ids')

    return {
        'depth': [name for name in maps if is_depth(name)],
        'semantics': [name for name in maps if is_semantics(name)],
    }


def _check_maps(
    found: Mapping[str, np.ndarray],
    maps: Mapping[str, tuple[int, bool]],
    inputs: NetworkInputs,
    options: Options,
    has_depth: bool,
    described: str,
) -> None:
    """Refuse a network that tells instances, or has no output that is an image."""
    instances = [
        n for n in found if n not in maps and found[n].ndim == 3 and min(found[n].shape[1:]) > 1
    ]
    if instances and maps and not options.outputs and not has_depth:
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


def _tasks(
    candidates: Mapping[str, Sequence[str]], options: Options, notes: list[str], described: str
) -> tuple[str, ...]:
    """The tasks that were asked for, else the only one that has candidates."""
    if options.task:
        return options.task
    tasks = tuple(task for task, fitting in candidates.items() if fitting)
    if 'depth' not in tasks and options.kind(DEPTH_KINDS) and not options.kind(LABEL_KINDS):
        return ('depth',)  # which is asked for, and missing
    if len(tasks) != 1:
        raise AdoptionError(
            'the outputs may be depth, classes, both or neither: give --task, '
            f'and --outputs if there are several; there are {described}'
        )
    notes.append(f'guessed: task {tasks[0]}, from the outputs {described}')
    return tasks


def _choose(task: str, fitting: Sequence[str], notes: list[str], described: str) -> str:
    """The only candidate of a task, or the only one with a name that hints at it."""
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
        if task == 'depth' and 'point' in described.lower():
            what += (
                '. The depth of points that are known up to a shift (MoGe) will not do: the shift '
                'is found outside of the network, anew for each image'
            )
        raise AdoptionError(
            f'{len(fitting) or "no"} outputs may be {task}: {what}; there are {described}'
        )
    return fitting[0]


def _as_map(value: np.ndarray, inputs: NetworkInputs) -> tuple[int, bool] | None:
    """Number of channels of an output that is an image, and whether they come last.

    ``None`` for an output that is no image of the input's proportions.
    """
    width, height = inputs.size

    def fits(h: int, w: int) -> bool:
        # Its size by or times a whole number, exactly: 100 queries of 100 classes are nearly so.
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


def _find_pose(found: Mapping[str, np.ndarray], options: Options, described: str) -> NetworkOutputs:
    """Find the output with six numbers, or the two with rotation and translation."""
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
    return NetworkOutputs(pose=chosen, shapes={n: found[n].shape for n in chosen})


def map_size(shape: Sequence[int]) -> tuple[int, int]:
    """Height and width of an output with one channel, from its shape."""
    height, width = (size for size in shape if size > 1)
    return height, width


def is_coarse(model: onnx.ModelProto) -> bool:
    """Whether a network computes in half precision or in integers."""
    return any(i.data_type == TensorProto.FLOAT16 for i in model.graph.initializer) or any(
        'Quantize' in node.op_type or 'Integer' in node.op_type for node in model.graph.node
    )
