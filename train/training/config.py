"""Settings of a training, read from YAML and the command line.

Not by jsonargparse: its messages name neither the file nor the kind in words ("Parser key "width":
Expected a <class 'int'>").
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import yaml

from train.losses.table import TERMS, needs, with_terms
from train.networks import perception, pose
from train.networks.prediction import DEFAULT_RANGE, DepthRange
from train.setting import setting

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


_WINDOWED = ('filters', 'still', 'backward', 'points', 'sky', 'motion', 'known_motion')
"""What only :class:`train.data.windows.WindowDataset` gives."""


@dataclass(frozen=True, kw_only=True)
@with_terms(TERMS)
class Config:
    """Settings of a training; ``python -m train fit --help`` explains each.

    Those of the losses are in :mod:`train.losses`, each with its term.

    Raises:
        ValueError: if a setting is out of range or contradicts another.
    """

    # Data
    data: str = setting(
        'sequences to train on; of a folder with train/ and val/, these; or a YAML file that '
        'mixes several, see train/data/mixture.py'
    )
    val: str = setting('data set to judge checkpoints on, or a mixture of several')
    out: str = setting('folder for checkpoints and logs')
    init: str = setting('checkpoint whose weights to start from; for a later phase', '')
    width: int = setting('network width, pixels, a multiple of 32')
    height: int = setting('network height, pixels, a multiple of 32')
    views: int = setting(
        'frames of a sample: 2, 3 or 5; the middle one is the target', 3, (2, 3, 5)
    )
    max_gap: int = setting(
        'neighbours are drawn from 1 to so many frames away, so that the pose '
        'network sees more speeds than were driven',
        1,
    )

    # Augmentation: probabilities, but for scale
    flip: float = setting('mirror images', 0.5)
    jitter: float = setting('change brightness, contrast, saturation and hue', 0.5)
    scale: float = setting(
        "largest random enlargement of either axis before a crop; SfMLearner's is 1.15", 1.0
    )
    night: float = setting('darken, with noise', 0.0)
    rain: float = setting('add rain and haze', 0.0)
    blur: float = setting('blur by motion or defocus', 0.0)

    grey: float = setting('take the colour away', 0.0)
    sharpen: float = setting('sharpen as cameras do', 0.0)
    degrade: float = setting('another gamma, noise and JPEG artefacts', 0.0)
    fog: float = setting('add fog', 0.0)
    filters: float = setting("resize by other filters than the nodes'; needs crop", 0.0)
    crop: float = setting(
        'smallest share of the width that a random window of the image shows, whose focal length '
        'follows; 1: the whole image or more of its shape; 0: no windows, but scale',
        0.0,
    )
    still: float = setting('all frames of a sample are the same one; needs crop', 0.0)
    backward: float = setting('time runs backwards; needs crop', 0.0)

    # Networks
    network: str = setting(
        'depth (and semantic) network: light, FSRE-Depth or DispNet',
        'fsre',
        tuple(perception.NETWORKS),
    )
    encoder: str = setting(
        'of light and fsre: any timm backbone, such as resnet18, resnet50, efficientnet_lite0',
        'resnet18',
    )
    weights: str = setting("the encoder's first weights: imagenet, a file, or empty for random", '')
    semantics: bool = setting('the network has a semantic decoder', True)
    attention: bool = setting('cross-task attention between the decoders (fsre)', False)
    pose_network: str = setting(
        "pairs: light or resnet (FSRE-Depth's); all views at once: sfm (SfMLearner)",
        'resnet',
        tuple(pose.NETWORKS),
    )
    pose_encoder: str = setting('backbone of the resnet pose network', 'resnet18')
    pose_weights: str = setting("the pose backbone's first weights, like weights", '')
    batch_norm: bool = setting(
        "in dispnet and sfm, as in the paper; false: as in its authors' later code", True
    )
    symmetric: bool = setting(
        'the pose network of pairs says no motion of equal images, and the opposite of them '
        'reversed; twice its cost',
        False,
    )
    min_depth: float = setting('nearest depth that light and fsre can say, model units', 0.1)
    max_depth: float = setting('farthest depth that they can say', 100.0)
    log_depth: bool = setting(
        'the logarithm of disparity, not disparity, is linear in what light and fsre say', False
    )
    focal: float = setting(
        "focal length of the network's own camera, pixels at network size: depth and motion of "
        "others follow by the ratio; 0: the network is for the data's one camera",
        0.0,
    )
    learn_intrinsics: bool = setting(
        'estimate the focal length and the centre of the camera, for '
        'recordings without calibration',
        False,
    )
    train_perception: bool = setting(
        'depth and semantics learn, too; false: only the pose network, on the depth as it is', True
    )

    # Optimisation
    batch_size: int = setting('samples a step, over all devices')
    steps: int = setting('optimiser steps in all')
    learning_rate: float = setting('peak of the schedule')
    schedule: str = setting(
        'constant; steps: a tenth after half and after three quarters; '
        'cosine: to a twentieth, after a warm-up',
        'steps',
        ('constant', 'steps', 'cosine'),
    )
    weight_decay: float = setting('of AdamW', 0.0)
    gradient_clip: float = setting('largest norm of the gradient; 0: any', 0.0)
    precision: str = setting("Lightning's, such as 32-true, bf16-mixed or 16-mixed", '32-true')
    accelerator: str = setting("Lightning's: auto, cpu, gpu", 'auto')
    devices: int = setting('processes on this machine, each with a device of its own', 1)
    nodes: int = setting('machines', 1)
    val_every: int = setting('steps between validations', 500)
    workers: int = setting('processes that load data', 1)
    seed: int = setting('of all random numbers', 1)

    if TYPE_CHECKING:  # the settings that the terms add

        def __getattr__(self, name: str) -> Any: ...

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
        net = perception.NETWORKS[self.network]
        if min(self.width, self.height) < net.min_size:
            raise ValueError(
                f'network size {self.width}x{self.height}: {self.network} needs at least '
                f'{net.min_size}x{net.min_size}'
            )
        for name, remedy in self._contradictions():
            raise ValueError(f"setting '{name}' {remedy}")

    @property
    def depth_range(self) -> DepthRange:
        """What depth the network can say."""
        return DepthRange(self.min_depth, self.max_depth, self.log_depth)

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        """Names of settings that others contradict, each with what it needs."""
        if not self.crop:
            windowed = (name for name in _WINDOWED if getattr(self, name))
            yield from ((name, 'needs crop, 1 or less') for name in windowed)
        elif self.crop > 1 or self.scale != 1:
            yield 'crop', 'must be 0 to 1, and scale 1 with it'
        if not 0 < self.min_depth < self.max_depth:
            yield 'max_depth', 'must be more than min_depth, which must be more than 0'
        if self.depth_range != DEFAULT_RANGE and not perception.NETWORKS[self.network].ranged:
            yield 'max_depth', 'and min_depth and log_depth are not for this network'
        if self.symmetric and not pose.NETWORKS[self.pose_network].pairs:
            yield 'symmetric', 'needs pose_network: light or resnet'
        if self.attention and not (self.semantics and perception.NETWORKS[self.network].attends):
            yield 'attention', f'needs {perception.WITH_ATTENTION}'
        if not self.train_perception and not self.init:
            yield 'train_perception', 'false needs init: a checkpoint with a trained network'
        for need in needs(self):
            for name, networks in (
                ('network', perception.NETWORKS),
                ('pose_network', pose.NETWORKS),
            ):
                able = [key for key, net in networks.items() if need.what in net.outputs]
                if able and getattr(self, name) not in able:
                    yield need.setting, f'needs {name}: {" or ".join(able)}'
            if need.what == 'logits' and not self.semantics:
                yield need.setting, 'needs semantics: true'
        for term in TERMS:
            for name, value in term.requires.items():
                if term.weight_in(self) and getattr(self, name) != value:
                    yield term.name, f'needs {name}: {str(value).lower()}'


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
    given = {f.name: getattr(args, f.name) for f in fields(Config)}
    values = {
        **_read_file(_found(args.config)),
        **{k: v for k, v in given.items() if v is not None},
    }
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


def _found(path: Path) -> Path:
    """A config where it is named, or else below the checkout or by its name among those that ship.

    So that ``train/configs/own.yaml``, as the docs write it, is found from any folder.
    """
    shipped = DEFAULT.parent
    return next(
        (p for p in (path, shipped.parents[1] / path, shipped / path) if p.exists()),
        path,
    )


def _read_file(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The settings in a YAML file. Those of the file that it names as ``base``, relative to its own
    folder, hold where it does not state them.

    Raises:
        ValueError: if a file cannot be read, holds no settings, or is its own base.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"cannot read config '{path}': {error}") from error
    if not isinstance(values, dict | None):
        raise ValueError(f"config '{path}' is no list of settings: write 'name: value'")
    values = values or {}
    if 'base' not in values:
        return values
    base = path.parent / str(values.pop('base'))
    if base in (*above, path):
        raise ValueError(f"config '{base}' is its own base")
    return {**_read_file(base, (*above, path)), **values}


def _flag(text: str) -> bool:
    if text.lower() not in ('true', 'false'):
        raise argparse.ArgumentTypeError(f'{text!r}, must be true or false')
    return text.lower() == 'true'
