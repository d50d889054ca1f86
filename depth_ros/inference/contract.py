"""The model contract: what a network file says about itself.

A depth_ros model is one ONNX file. Its metadata entry ``depth_ros`` is a JSON object with
everything that a node needs to run the network and to interpret what it returns. Training
(``train/export/``) writes it, the robot (``depth_ros/inference/loader.py``) reads it,
and this module is the only definition of it.

==========  ===========================  ===================================================
Tensor      Type and shape               Meaning
==========  ===========================  ===================================================
image       uint8 [1, H, W, 3]           RGB at network size (task ``perception``), or at
                                         ``image_size``, which the graph then resizes
previous,   uint8 [1, H, W, 3]           the same, in temporal order (task ``pose``)
current
depth       float32 [H, W]               along the optical axis, metres if ``metric``, else
                                         model units; with ``affine_invariant``, only its
                                         inverse is known, up to scale and shift
labels      uint8 [H, W]                 ids of ``classes``; 255 = unlabelled
pose        float32 [6]                  see :data:`POSE_CONVENTION`
==========  ===========================  ===================================================

Casting, normalisation, disparity-to-depth and arg-max are nodes of the graph.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depth_ros.core.camera import Intrinsics
from depth_ros.core.labels import UNLABELED
from depth_ros.inference.onnx_header import (
    OnnxFileError,
    OnnxHeader,
    parse_header,
    read_header,
)
from depth_ros.inference.outputs import OUTPUTS

if TYPE_CHECKING:
    import onnx

METADATA_KEY = 'depth_ros'
VERSION = 1
POSE_CONVENTION = (
    'rotation_vector[rad], translation; T_previous_current: '
    'pose of the current camera in the previous optical frame'
)
"""The six numbers of a pose output: axis-angle, then translation, of the rigid transform that
takes points from the current optical frame to the previous one, x_prev = R x_cur + t."""

TASKS: Mapping[str, tuple[str, ...]] = {
    'perception': ('image',),
    'pose': ('previous', 'current'),
}
"""Input tensor names of each task."""

_OPTIONAL = frozenset({'affine_invariant', 'image_size'})
"""Fields that are written only if they differ from their default.

Older software, which does not know them, reads files without them, and refuses files with them. It
would misunderstand their depth or images."""


class ContractError(ValueError):
    """A model file lacks or contradicts the contract; the message names the file and field."""


@dataclass(frozen=True)
class SemanticClass:
    """One semantic class: its id in ``labels``, its name, and its display colour (r, g, b)."""

    id: int
    name: str
    color: tuple[int, int, int]


@dataclass(frozen=True)
class ModelContract:
    """What a network needs and what its outputs mean.

    Attributes:
        task: ``perception`` (depth and/or labels of one image) or ``pose`` (two images).
        name: short name of the network, for logs and diagnostics.
        input_width, input_height: network size in pixels.
        intrinsics: (fx, fy, cx, cy) in pixels of the training camera at network size.
        outputs: names of the output tensors.
        depth_range: (nearest, farthest) depth that the network can express, in the unit of
            ``depth``; ``None`` without a depth output.
        metric: whether depth and translation are metres; otherwise an unknown constant factor
            separates them from metres.
        classes: semantic classes with ids 0..n-1; empty without a labels output.
        pose_convention: :data:`POSE_CONVENTION` for pose networks, else empty.
        provenance: where the weights come from: data, licence, steps, measured quality.
        version: version of this contract.
        image_size: (width, height) of the images that the network takes and resizes itself;
            ``None`` where it takes them at network size.
        affine_invariant: whether 1 / depth is only the true inverse depth times an unknown factor
            plus an unknown shift, which differ from image to image, as with MiDaS and Depth
            Anything. It tells near from far, but no distances.
    """

    task: str
    name: str
    input_width: int
    input_height: int
    intrinsics: tuple[float, float, float, float]
    outputs: tuple[str, ...]
    depth_range: tuple[float, float] | None = None
    metric: bool = False
    classes: tuple[SemanticClass, ...] = ()
    pose_convention: str = ''
    provenance: Mapping[str, Any] = field(default_factory=dict)
    version: int = VERSION
    image_size: tuple[int, int] | None = None
    affine_invariant: bool = False

    def __post_init__(self) -> None:
        """Check that the fields agree with each other.

        Raises:
            ContractError: if a field is wrong; the message names the first one.
        """
        self._check_network()
        self._check_depth()
        self._check_classes()
        expected = POSE_CONVENTION if self.task == 'pose' else ''
        _check(
            self.pose_convention == expected,
            'pose_convention',
            f'is {self.pose_convention!r}, must be {expected!r}',
        )
        _check(isinstance(self.provenance, Mapping), 'provenance', 'must be an object')
        _check(
            self.image_size is None
            or len(self.image_size) == 2
            and all(_is_int(v) and 8 <= v <= 8192 for v in self.image_size),
            'image_size',
            f'is {self.image_size!r}, must be (width, height), each 8..8192',
        )

    def _check_network(self) -> None:
        _check(self.version == VERSION, 'version', f'is {self.version!r}, this is {VERSION}')
        _check(self.task in TASKS, 'task', f'is {self.task!r}, must be one of {sorted(TASKS)}')
        _check(isinstance(self.name, str) and bool(self.name), 'name', 'must be a non-empty text')
        for key in ('input_width', 'input_height'):
            value = getattr(self, key)
            _check(_is_int(value) and 8 <= value <= 8192, key, f'is {value!r}, must be 8..8192')
        _check(
            len(self.intrinsics) == 4
            and all(_is_finite(v) for v in self.intrinsics)
            and self.intrinsics[0] > 0
            and self.intrinsics[1] > 0,
            'intrinsics',
            f'is {self.intrinsics!r}, must be (fx, fy, cx, cy) with fx, fy > 0',
        )
        allowed = {name for name, output in OUTPUTS.items() if output.task == self.task}
        _check(
            bool(self.outputs)
            and len(set(self.outputs)) == len(self.outputs)
            and set(self.outputs) <= allowed,
            'outputs',
            f'is {self.outputs!r}, must be some of {sorted(allowed)}, each once',
        )

    def _check_depth(self) -> None:
        _check(isinstance(self.metric, bool), 'metric', f'is {self.metric!r}, not true or false')
        _check(
            isinstance(self.affine_invariant, bool),
            'affine_invariant',
            f'is {self.affine_invariant!r}, not true or false',
        )
        _check(
            not self.affine_invariant or 'depth' in self.outputs,
            'affine_invariant',
            'is true without a depth output',
        )
        _check(
            not (self.affine_invariant and self.metric),
            'affine_invariant',
            'is true, but so is metric: depth with an unknown shift is not in metres',
        )
        if 'depth' in self.outputs:
            _check(
                self.depth_range is not None
                and len(self.depth_range) == 2
                and all(_is_finite(v) for v in self.depth_range)
                and 0 < self.depth_range[0] < self.depth_range[1],
                'depth_range',
                f'is {self.depth_range!r}, must be (near, far), 0 < near < far',
            )
        else:
            _check(self.depth_range is None, 'depth_range', 'is given without a depth output')

    def _check_classes(self) -> None:
        if 'labels' in self.outputs:
            _check(0 < len(self.classes) <= UNLABELED, 'classes', 'must list 1 to 255 classes')
        else:
            _check(not self.classes, 'classes', 'is given without a labels output')
        for index, item in enumerate(self.classes):
            _check(item.id == index, 'classes', f'entry {index} has id {item.id!r}, not {index}')
            _check(
                isinstance(item.name, str) and bool(item.name),
                'classes',
                f'entry {index} has no name',
            )
            _check(
                len(item.color) == 3 and all(_is_int(c) and 0 <= c <= 255 for c in item.color),
                'classes',
                f'entry {index} has colour {item.color!r}, must be three of 0..255',
            )

    @property
    def depth_limits(self) -> tuple[float, float]:
        """``depth_range`` of a model that gives depth.

        Raises:
            ContractError: if it gives none.
        """
        if self.depth_range is None:
            raise ContractError(f"model '{self.name}' gives no depth")
        return self.depth_range

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the input tensors."""
        return TASKS[self.task]

    @property
    def camera(self) -> Intrinsics:
        """The training camera at network size."""
        return Intrinsics(*self.intrinsics, self.input_width, self.input_height)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape (H, W, 3) of the images that the network takes."""
        width, height = self.image_size or (self.input_width, self.input_height)
        return height, width, 3

    def class_id(self, name: str) -> int | None:
        """Id of the class called ``name``, or ``None`` if the model has no such class."""
        return next((c.id for c in self.classes if c.name == name), None)

    def tensor_shapes(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Element type and shape of every input and output tensor, by name."""
        height, width = self.input_height, self.input_width
        shapes: dict[str, tuple[str, tuple[int, ...]]] = {
            name: ('uint8', (1, *self.image_shape)) for name in self.inputs
        }
        for name in self.outputs:
            shapes[name] = OUTPUTS[name].dtype, OUTPUTS[name].shape(height, width)
        return shapes

    def to_json(self) -> str:
        """The contract as the JSON text that is stored in the model file."""
        data = asdict(self)
        for item in fields(self):
            if item.name in _OPTIONAL and data[item.name] == item.default:
                del data[item.name]
        return json.dumps(data, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ModelContract:
        """Read a contract from the text that :meth:`to_json` wrote.

        Raises:
            ContractError: if the text is not JSON, or a field is missing, unknown or wrong.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise ContractError(f"metadata '{METADATA_KEY}' is not JSON: {error}") from error
        _check(isinstance(data, dict), METADATA_KEY, 'must be a JSON object')
        # The version decides which fields to expect, so it is checked first.
        _check(
            data.get('version') == VERSION,
            'version',
            f'is {data.get("version")!r}, this software reads {VERSION}',
        )
        known = {f.name for f in fields(cls)}
        for key in sorted(known - data.keys() - _OPTIONAL):
            raise ContractError(f"field '{key}' is missing")
        for key in sorted(data.keys() - known):
            raise ContractError(f"field '{key}' is unknown")
        for key in ('intrinsics', 'outputs', 'classes'):
            _check(isinstance(data[key], list), key, 'must be a list')
        try:
            data['classes'] = tuple(
                SemanticClass(c['id'], c['name'], tuple(c['color'])) for c in data['classes']
            )
        except (TypeError, KeyError) as error:
            raise ContractError(f"field 'classes' lacks {error}") from error
        data['intrinsics'] = tuple(data['intrinsics'])
        data['outputs'] = tuple(data['outputs'])
        if data['depth_range'] is not None:
            _check(isinstance(data['depth_range'], list), 'depth_range', 'must be a list or null')
            data['depth_range'] = tuple(data['depth_range'])
        if data.get('image_size') is not None:
            _check(isinstance(data['image_size'], list), 'image_size', 'must be a list or null')
            data['image_size'] = tuple(data['image_size'])
        return cls(**data)


def write_contract(model: onnx.ModelProto, contract: ModelContract) -> None:
    """Store ``contract`` in the metadata of ``model``, replacing an earlier one.

    Raises:
        ContractError: if the graph's inputs or outputs contradict the contract.
    """
    _check_graph(parse_header(model.SerializeToString()), contract)
    kept = [p for p in model.metadata_props if p.key != METADATA_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, contract.to_json()


def read_contract(path: str | os.PathLike[str]) -> ModelContract:
    """Read and check the contract of the ONNX file ``path``.

    Raises:
        ContractError: if the file is missing, is not ONNX, has no contract, or its contract or
            graph is wrong; the message names the file and the field.
    """
    path = Path(path)
    if not path.is_file():
        what = 'is a folder' if path.is_dir() else 'does not exist'
        raise ContractError(f"model '{path}' {what}; give the path of an exported .onnx file")
    try:
        header = read_header(path)
        if not header.nodes:
            raise OnnxFileError('it holds no graph')
    except (OnnxFileError, OSError) as error:
        raise ContractError(
            f"model '{path}' cannot be read as ONNX ({error}); the file is damaged or of another "
            'kind: copy or export it again'
        ) from error
    text = header.metadata.get(METADATA_KEY)
    if text is None:
        raise ContractError(
            f"model '{path}' has no metadata field '{METADATA_KEY}'; it was not exported for "
            "depth_ros: export it with 'python -m train export', or if it is somebody else's, make "
            "a model of it with 'adopt_model'"
        )
    try:
        contract = ModelContract.from_json(text)
        _check_graph(header, contract)
    except ContractError as error:
        raise ContractError(f"model '{path}': {error}") from error
    return contract


def _check_graph(header: OnnxHeader, contract: ModelContract) -> None:
    """Compare the graph's inputs and outputs with the contract."""
    expected = contract.tensor_shapes()
    sides = (
        ('input', contract.inputs, header.inputs),
        ('output', contract.outputs, header.outputs),
    )
    for side, names, found in sides:
        _check(
            set(found) == set(names),
            f'{side}s',
            f'are {sorted(names)} in the contract, but {sorted(found)} in the graph',
        )
        for name, (element, shape) in found.items():
            _check(
                (element, shape) == expected[name],
                name,
                f'is {element} {list(shape)} in the graph, but must be '
                f'{expected[name][0]} {list(expected[name][1])}',
            )


def _check(condition: bool, name: str, problem: str) -> None:
    if not condition:
        raise ContractError(f"field '{name}' {problem}")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
