"""What must be told about a foreign network, as its file does not say it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from depth_ros.core.camera import Intrinsics
from depth_ros.inference.contract import SemanticClass

NORMALIZATIONS = {
    'imagenet': ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    'half': ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    'unit': ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    'bytes': ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),
}
"""Mean and standard deviation of pixels in 0..1. The network gets -1..1 with ``half``, 0..1 with
``unit``, and 0..255 with ``bytes``."""

DEPTH_KINDS = ('metric', 'relative', 'inverse', 'affine-inverse', 'sigmoid')
LABEL_KINDS = ('logits', 'ids')
DEPTH_RANGES = {
    'metric': (1e-3, 1e3),
    'relative': (1e-6, 1e6),
    'inverse': (1e-6, 1e6),
    'affine-inverse': (1e-6, 1e6),
    'sigmoid': (0.1, 100.0),
}


class AdoptionError(ValueError):
    """A network cannot be adopted; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the file of a network does not say; the options of ``adopt_model``.

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
        camera: the camera of the training; ``None`` if it is not known.
        intrinsics: the same as (fx, fy, cx, cy) in pixels of the network's images.
        focal: the same as a focal length in pixels that holds at any size; 0 if not given.
        offset: added to affine-inverse depth.
        pose_order: rotation-translation or translation-rotation.
        rotation: vector, axis times angle, or euler-xyz, angles of Rx Ry Rz.
        pose_inverse: whether the pose is T_current_previous.
        input_order: previous-current or current-previous.
        multiple: number of which width and height must be multiples.
        name, license: name of the model, and licence of its weights.
        preset: name of the preset that gave some of these.
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
        """The given kind that is among ``kinds``, or ''."""
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
    # Exported by ultralytics: exp of a log-depth, metres of the cameras that it was trained on.
    'yolo26-depth': {
        'task': ('depth',),
        'kinds': ('metric',),
        'multiple': 32,
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
