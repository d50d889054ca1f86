"""Settings of a training, read from YAML and the command line."""

from __future__ import annotations

import argparse
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from train.losses.triplet import BORDERS

DEFAULT = Path(__file__).parents[1] / 'configs' / 'street.yaml'

_AT_LEAST_ONE = (
    'width',
    'height',
    'max_gap',
    'scale',
    'batch_size',
    'steps',
    'devices',
    'nodes',
    'val_every',
)
NETWORKS = ('light', 'fsre', 'dispnet')
POSE_NETWORKS = ('light', 'resnet', 'sfm')


def _setting(help: str, default: Any = MISSING, choices: tuple | None = None) -> Any:
    """A field of :class:`Config` with its explanation."""
    return field(default=default, metadata={'help': help, 'choices': choices})


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a training; ``python -m train fit --help`` explains each.

    Raises:
        ValueError: if a setting is out of range or contradicts another.
    """

    # Data
    data: str = _setting('sequences to train on; of a folder with train/ and val/, these')
    val: str = _setting('data set to judge checkpoints on')
    out: str = _setting('folder for checkpoints and logs')
    init: str = _setting('checkpoint whose weights to start from; for a later phase', '')
    width: int = _setting('network width, pixels, a multiple of 32')
    height: int = _setting('network height, pixels, a multiple of 32')
    views: int = _setting(
        'frames of a sample: 2, 3 or 5; the middle one is the target', 3, (2, 3, 5)
    )
    max_gap: int = _setting(
        'neighbours are drawn from 1 to so many frames away, so that the pose '
        'network sees more speeds than were driven',
        1,
    )

    # Augmentation: probabilities, but for scale
    flip: float = _setting('mirror images', 0.5)
    jitter: float = _setting('change brightness, contrast, saturation and hue', 0.5)
    scale: float = _setting(
        "largest random enlargement of either axis before a crop; SfMLearner's is 1.15", 1.0
    )
    night: float = _setting('darken, with noise', 0.0)
    rain: float = _setting('add rain and haze', 0.0)
    blur: float = _setting('blur by motion or defocus', 0.0)

    # Networks
    network: str = _setting(
        'depth (and semantic) network: light, FSRE-Depth or DispNet', 'fsre', NETWORKS
    )
    encoder: str = _setting(
        'of light and fsre: any timm backbone, such as resnet18, resnet50, efficientnet_lite0',
        'resnet18',
    )
    weights: str = _setting(
        "the encoder's first weights: imagenet, a file, or empty for random", ''
    )
    semantics: bool = _setting('the network has a semantic decoder', True)
    attention: bool = _setting('cross-task attention between the decoders (fsre)', False)
    pose_network: str = _setting(
        "pairs: light or resnet (FSRE-Depth's); all views at once: sfm (SfMLearner)",
        'resnet',
        POSE_NETWORKS,
    )
    pose_encoder: str = _setting('backbone of the resnet pose network', 'resnet18')
    pose_weights: str = _setting("the pose backbone's first weights, like weights", '')
    batch_norm: bool = _setting(
        "in dispnet and sfm, as in the paper; false: as in its authors' later code", True
    )
    learn_intrinsics: bool = _setting(
        'estimate the focal length and the centre of the camera, for '
        'recordings without calibration',
        False,
    )
    train_perception: bool = _setting(
        'depth and semantics learn, too; false: only the pose network, on the depth as it is', True
    )

    # Losses
    ssim: float = _setting('share of SSIM in the photometric error; the rest is L1', 0.85)
    reduction: str = _setting(
        'over the sources: minimum (Godard et al.) or mean (SfMLearner)',
        'minimum',
        ('minimum', 'mean'),
    )
    automask: bool = _setting('pixels that no motion explains better do not count', True)
    validity: bool = _setting(
        'pixels that a source does not see do not count; false: they count '
        "with the border's colour, as in the code of FSRE-Depth",
        True,
    )
    full_resolution: bool = _setting(
        'judge every scale at full resolution; false: at its own', True
    )
    scale_decay: float = _setting('weight of the photometric error from one scale to the next', 0.5)
    smoothness: float = _setting('weight of smoothness', 1e-3)
    smoothness_order: int = _setting(
        '1: edge-aware (Godard et al.); 2: of slopes (SfMLearner)', 1, (1, 2)
    )
    semantic: float = _setting('weight of the cross-entropy', 0.0)
    triplet: float = _setting('weight of the semantics-guided triplet loss', 0.0)
    triplet_border: str = _setting(
        "anchors near the image's border: valid: their patches lie "
        'inside; paper: as in the code of FSRE-Depth',
        'valid',
        BORDERS,
    )
    explainability: float = _setting(
        "weight of the explainability masks' regulariser; 0: no masks (sfm)", 0.0
    )
    moving: str = _setting(
        'moving objects: none; semantic: movable classes do not count; '
        'consistency: weight by the consistency of depth (SC-SfMLearner)',
        'none',
        ('none', 'semantic', 'consistency'),
    )
    consistency: float = _setting('weight of the geometry consistency of depth over time', 0.0)
    velocity: float = _setting('weight of recorded speed, which makes the scale metric', 0.0)
    camera_height: float = _setting(
        'height of the camera over the road, metres; makes the scale '
        'metric in training; 0: unknown',
        0.0,
    )
    height_weight: float = _setting('weight of the known camera height', 0.1)

    # Optimisation
    batch_size: int = _setting('samples a step, over all devices')
    steps: int = _setting('optimiser steps in all')
    learning_rate: float = _setting('peak of the schedule')
    schedule: str = _setting(
        'constant; steps: a tenth after half and after three quarters; '
        'cosine: to a twentieth, after a warm-up',
        'steps',
        ('constant', 'steps', 'cosine'),
    )
    weight_decay: float = _setting('of AdamW', 0.0)
    gradient_clip: float = _setting('largest norm of the gradient; 0: any', 0.0)
    precision: str = _setting("Lightning's, such as 32-true, bf16-mixed or 16-mixed", '32-true')
    accelerator: str = _setting("Lightning's: auto, cpu, gpu", 'auto')
    devices: int = _setting('processes on this machine, each with a device of its own', 1)
    nodes: int = _setting('machines', 1)
    val_every: int = _setting('steps between validations', 500)
    workers: int = _setting('processes that load data', 1)
    seed: int = _setting('of all random numbers', 1)

    def __post_init__(self) -> None:
        """Check ranges and contradictions."""
        for item in fields(self):
            value, choices = getattr(self, item.name), item.metadata['choices']
            if choices and value not in choices:
                raise ValueError(
                    f"setting '{item.name}' is {value!r}, must be one of "
                    + ', '.join(map(str, choices))
                )
            lowest = 1 if item.name in _AT_LEAST_ONE else 0
            if isinstance(value, int | float) and value < lowest:
                raise ValueError(f"setting '{item.name}' is {value}, must be at least {lowest}")
        if self.width % 32 or self.height % 32:
            raise ValueError(
                f'network size {self.width}x{self.height}: both must be multiples of 32'
            )
        if self.batch_size % (self.devices * self.nodes):
            raise ValueError(
                f'batch_size {self.batch_size} must be a multiple of the '
                f'{self.devices * self.nodes} processes (devices times nodes)'
            )
        if self.network == 'fsre' and min(self.width, self.height) < 64:
            raise ValueError(f'network size {self.width}x{self.height}: fsre needs at least 64x64')
        semantics = self.semantics and self.network != 'dispnet'
        for name, wrong, remedy in (
            (
                'attention',
                self.attention and not (semantics and self.network == 'fsre'),
                'needs network: fsre with semantics: true',
            ),
            ('semantic', self.semantic and not semantics, 'needs a network with semantics'),
            ('triplet', self.triplet and self.network != 'fsre', 'needs network: fsre'),
            (
                'explainability',
                self.explainability and self.pose_network != 'sfm',
                'needs pose_network: sfm',
            ),
            (
                'explainability',
                self.explainability and self.reduction != 'mean',
                'needs reduction: mean',
            ),
            (
                'explainability',
                self.explainability and self.full_resolution,
                'needs full_resolution: false',
            ),
            (
                'train_perception',
                not self.train_perception and not self.init,
                'false needs init: a checkpoint with a trained network',
            ),
        ):
            if wrong:
                raise ValueError(f"setting '{name}' {remedy}")


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--config`` and one option a setting."""
    parser.add_argument('--config', type=Path, default=DEFAULT, help='YAML file (%(default)s)')
    group = parser.add_argument_group('settings, in place of those in the YAML file')
    kinds = get_type_hints(Config)
    for item in fields(Config):
        kind = _flag if kinds[item.name] is bool else kinds[item.name]
        group.add_argument(
            f'--{item.name.replace("_", "-")}',
            type=kind,
            choices=item.metadata['choices'],
            metavar=kinds[item.name].__name__ if item.metadata['choices'] is None else None,
            help=item.metadata['help'],
        )


def read_config(args: argparse.Namespace) -> Config:
    """The settings of ``--config``, with those given on the command line in their place.

    Raises:
        ValueError: if a setting is missing, unknown, of the wrong kind, or out of range.
    """
    try:
        values = yaml.safe_load(args.config.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"cannot read config '{args.config}': {error}") from error
    if not isinstance(values, dict | None):
        raise ValueError(f"config '{args.config}' is no list of settings: write 'name: value'")
    given = {f.name: getattr(args, f.name) for f in fields(Config)}
    values = {**(values or {}), **{k: v for k, v in given.items() if v is not None}}
    # What `prepare` makes is one data set: it may be given as a whole.
    data = Path(str(values.get('data')))
    if (data / 'train').is_dir():
        values['data'] = str(data / 'train')
        if given['val'] is None:
            values['val'] = str(data / 'val')
    kinds = get_type_hints(Config)
    for name in sorted(values.keys() - kinds.keys()):
        raise ValueError(f"setting '{name}' is unknown in '{args.config}'")
    for item in fields(Config):
        name, kind = item.name, kinds[item.name]
        if name not in values:
            if item.default is MISSING:
                raise ValueError(f"setting '{name}' is missing from '{args.config}'")
            continue
        if kind is float and type(values[name]) is int:
            values[name] = float(values[name])
        if type(values[name]) is not kind:
            raise ValueError(
                f"setting '{name}' in '{args.config}' is {values[name]!r}, must be {kind.__name__}"
            )
    return Config(**values)


def _flag(text: str) -> bool:
    if text.lower() not in ('true', 'false'):
        raise argparse.ArgumentTypeError(f'{text!r}, must be true or false')
    return text.lower() == 'true'
