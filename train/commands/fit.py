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
Writes OUT/last.ckpt (every 100 steps; last-1.ckpt and last-2.ckpt are those before), OUT/best.ckpt
(by the error of depth where --val has true depth, else by the photometric error) and OUT/logs
(`tensorboard --logdir OUT/logs`; also CSV).
The same command again goes on where an interrupted training stopped; the number of steps, the
learning rate, the clip of the gradient, workers, devices and --val-every may differ, all else
must be the same. Ctrl-C ends it after the present step, with a checkpoint.
"""
    add_config_arguments(parser)
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        '--resume',
        type=Path,
        metavar='CKPT',
        help='checkpoint of this training to go on from (default: OUT/last.ckpt, if it is there)',
    )
    start.add_argument(
        '--restart',
        action='store_true',
        help='start over even where the run folder holds a checkpoint',
    )


def run(args: argparse.Namespace) -> None:
    """Train, or go on where an interrupted training stopped."""
    config = read_config(args)
    last = Path(config.out) / 'last.ckpt'
    resume = args.resume or (last if last.exists() and not args.restart else None)
    fit(config, resume_from=resume)
