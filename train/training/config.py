"""Settings of a training, read from YAML and the command line.

This does not use jsonargparse, whose messages do not name the file and name types as Python does
("Parser key "width": Expected a <class 'int'>").
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
"""Settings that need :class:`train.data.windows.WindowDataset`, which ``crop`` turns on."""


@dataclass(frozen=True, kw_only=True)
@with_terms(TERMS)
class Config:
    """Settings of a training; ``python -m train fit --help`` explains each.

    The settings of the losses are declared in :mod:`train.losses`, each with its term.

    Raises:
        ValueError: if a setting is out of range or contradicts another.
    """

    # Data
    data: str = setting(
        'data set to train on: a folder of sequences; a folder with train/ and val/ inside; or a '
        'YAML file that mixes several, see train/data/mixture.py'
    )
    val: str = setting('data set to judge checkpoints on, or a mixture of several')
    out: str = setting('folder for checkpoints and logs')
    init: str = setting('checkpoint whose weights the training starts from', '')
    width: int = setting('network width, pixels, a multiple of 32')
    height: int = setting('network height, pixels, a multiple of 32')
    views: int = setting(
        'frames of a sample: 2, 3 or 5; the middle one is the target', 3, (2, 3, 5)
    )
    max_gap: int = setting(
        'largest distance, in frames, between neighbours; drawn anew for each sample, so that the '
        'pose network sees more speeds than were driven',
        1,
    )

    # Augmentation: probabilities, except for scale and crop
    flip: float = setting('mirror images', 0.5)
    jitter: float = setting('change brightness, contrast, saturation and hue', 0.5)
    scale: float = setting(
        "largest random enlargement of either axis before a crop; SfMLearner's is 1.15", 1.0
    )
    night: float = setting('darken, with noise', 0.0)
    rain: float = setting('add rain and haze', 0.0)
    blur: float = setting('blur by motion or defocus', 0.0)
    grey: float = setting('remove the colour', 0.0)
    sharpen: float = setting('sharpen as cameras do', 0.0)
    degrade: float = setting('change the gamma, add noise and JPEG artefacts', 0.0)
    fog: float = setting('add fog', 0.0)
    filters: float = setting('resize by other filters than the nodes do; needs crop', 0.0)
    crop: float = setting(
        'train on random windows of the images, as cameras of other focal lengths would take them: '
        "smallest share of an image's width that a window shows, at most 1; 0: no windows",
        0.0,
    )
    still: float = setting('repeat one frame as all frames of a sample; needs crop', 0.0)
    backward: float = setting('reverse the order of the frames; needs crop', 0.0)

    # Networks
    network: str = setting(
        'depth (and semantic) network: light, FSRE-Depth or DispNet',
        'fsre',
        tuple(perception.NETWORKS),
    )
    encoder: str = setting(
        'encoder of light and fsre: any timm backbone, such as resnet18, resnet50, '
        'efficientnet_lite0',
        'resnet18',
    )
    weights: str = setting('initial weights of the encoder: imagenet, a file, or empty: random', '')
    semantics: bool = setting('give the network a semantic decoder', True)
    attention: bool = setting('cross-task attention between the decoders (fsre)', False)
    pose_network: str = setting(
        "for pairs of frames: light or resnet (FSRE-Depth's); for all views at once: sfm "
        '(SfMLearner)',
        'resnet',
        tuple(pose.NETWORKS),
    )
    pose_encoder: str = setting('backbone of the resnet pose network', 'resnet18')
    pose_weights: str = setting('initial weights of the pose backbone, like weights', '')
    batch_norm: bool = setting(
        "batch norm in dispnet and sfm, as in the paper; false: as in its authors' later code", True
    )
    symmetric: bool = setting(
        'make a pose network of pairs antisymmetric: equal images give no motion, a reversed pair '
        'the negated motion; doubles its cost',
        False,
    )
    min_depth: float = setting('nearest depth that light and fsre can predict, model units', 0.1)
    max_depth: float = setting('farthest depth that light and fsre can predict, model units', 100.0)
    log_depth: bool = setting(
        'the sigmoid outputs of light and fsre are linear in the logarithm of disparity instead of '
        'in disparity',
        False,
    )
    focal: float = setting(
        'one focal length, pixels at network size, to which depth and motion of all cameras are '
        "converted; 0: no conversion, the network is for the data's one camera",
        0.0,
    )
    learn_intrinsics: bool = setting(
        'estimate the focal length and the centre of the camera, for '
        'recordings without calibration',
        False,
    )
    train_perception: bool = setting(
        'train the depth network (with semantics), too; false: only the pose network', True
    )

    # Optimisation
    batch_size: int = setting('samples a step, over all devices')
    steps: int = setting('number of optimiser steps')
    learning_rate: float = setting('peak of the schedule')
    schedule: str = setting(
        'constant; steps: a tenth after half and after three quarters; '
        'cosine: to a twentieth, after a warm-up',
        'steps',
        ('constant', 'steps', 'cosine'),
    )
    weight_decay: float = setting('weight decay of AdamW', 0.0)
    gradient_clip: float = setting('largest norm of the gradient; 0: no limit', 0.0)
    precision: str = setting("Lightning's, such as 32-true, bf16-mixed or 16-mixed", '32-true')
    accelerator: str = setting("Lightning's: auto, cpu, gpu", 'auto')
    devices: int = setting('processes on this machine, each with a device of its own', 1)
    nodes: int = setting('number of machines', 1)
    val_every: int = setting('steps between validations', 500)
    workers: int = setting('processes that load data, per device', 1)
    seed: int = setting('seed of all random numbers', 1)

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
        """Depths that the network can predict."""
        return DepthRange(self.min_depth, self.max_depth, self.log_depth)

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        """Yield each setting that contradicts others: its name, and what it needs."""
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
    """Add ``--config``, and one option for each setting."""
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
    """Read the settings from ``--config``; those given on the command line replace them.

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
    """Read the settings in a YAML file, and in those that it is based on.

    ``base`` names another file, relative to this file's folder, for the settings that this file
    does not state.

    Args:
        path: the file.
        above: files that are based on this one.

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
