"""``python -m train fit``: train depth, semantics and motion on a data set."""

from __future__ import annotations

import argparse
from pathlib import Path

from train.training.config import add_config_arguments, read_config
from train.training.trainer import fit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = """\
Writes OUT/last.ckpt (every 100 steps), OUT/best.ckpt (by the error of depth where --val has true
depth, else by the photometric error) and OUT/logs (`tensorboard --logdir OUT/logs`; also CSV).
The same command again goes on where an interrupted training stopped. Ctrl-C ends it after the
present step, with a checkpoint.
"""
    add_config_arguments(parser)
    parser.add_argument(
        '--restart',
        action='store_true',
        help='start over even where the run folder holds a checkpoint',
    )


def run(args: argparse.Namespace) -> None:
    """Train, or go on where an interrupted training stopped."""
    config = read_config(args)
    last = Path(config.out) / 'last.ckpt'
    fit(config, resume_from=last if last.exists() and not args.restart else None)
