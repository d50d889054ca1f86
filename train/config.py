"""Settings of a training, read from YAML and the command line."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from pathlib import Path
from typing import get_type_hints

import yaml

DEFAULT = Path(__file__).parent / 'configs' / 'street.yaml'


@dataclass(frozen=True)
class Config:
    """Settings of a training.

    Attributes:
        data: data set to train on.
        val: data set to judge checkpoints on.
        out: folder for checkpoints and logs.
        init: checkpoint whose weights to start from, or empty; for a later phase of a training.
        width, height: network size in pixels, multiples of 32.
        max_gap: neighbours are drawn from 1 to max_gap frames away, so that the pose network sees
            a wider range of speeds than was driven.
        train_perception: whether depth and semantics learn, too; if not, the pose network is
            refined on the depth as it is.
        pretrained: start the encoder from ImageNet weights.
        batch_size: samples a step.
        steps: optimiser steps in all.
        learning_rate: peak of the schedule (linear warm-up, then cosine to a twentieth).
        smoothness: weight of edge-aware smoothness.
        semantic: weight of the cross-entropy.
        precision: Lightning's precision, such as 32-true or bf16-mixed.
        val_every: steps between validations.
        workers: processes that load data.
        seed: of all random numbers.
    """

    data: str
    val: str
    out: str
    init: str
    width: int
    height: int
    max_gap: int
    train_perception: bool
    pretrained: bool
    batch_size: int
    steps: int
    learning_rate: float
    smoothness: float
    semantic: float
    precision: str
    val_every: int
    workers: int
    seed: int


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--config`` and one option a setting."""
    parser.add_argument('--config', type=Path, default=DEFAULT, help='YAML file (%(default)s)')
    for name, kind in get_type_hints(Config).items():
        kind = _flag if kind is bool else kind
        parser.add_argument(f'--{name.replace("_", "-")}', type=kind, help=argparse.SUPPRESS
                            if name == 'seed' else f'override {name}')


def read_config(args: argparse.Namespace) -> Config:
    """The settings of ``--config``, with those given on the command line in their place.

    Raises:
        ValueError: if a setting is missing, unknown, or of the wrong kind.
    """
    try:
        values = yaml.safe_load(args.config.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"cannot read config '{args.config}': {error}") from error
    given = {f.name: getattr(args, f.name) for f in fields(Config)}
    values = {**(values or {}), **{k: v for k, v in given.items() if v is not None}}
    kinds = get_type_hints(Config)
    for name in sorted(kinds.keys() ^ values.keys()):
        state = 'missing from' if name in kinds else 'unknown in'
        raise ValueError(f"setting '{name}' is {state} '{args.config}'")
    for name, kind in kinds.items():
        if kind is float and isinstance(values[name], int):
            values[name] = float(values[name])
        if type(values[name]) is not kind:
            raise ValueError(f"setting '{name}' in '{args.config}' is {values[name]!r}, "
                             f'must be {kind.__name__}')
    config = Config(**values)
    if config.width % 32 or config.height % 32:
        raise ValueError(f'network size {config.width}x{config.height}: both must be multiples '
                         'of 32')
    return config


def _flag(text: str) -> bool:
    if text.lower() not in ('true', 'false'):
        raise argparse.ArgumentTypeError(f'{text!r}, must be true or false')
    return text.lower() == 'true'
