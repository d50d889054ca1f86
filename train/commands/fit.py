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
Writes OUT/last.ckpt every 100 steps (last-1.ckpt and last-2.ckpt are the two before), OUT/best.ckpt
(lowest error of depth where --val has true depth or points of a reconstruction, else lowest
photometric error) and OUT/logs (CSV and TensorBoard: `tensorboard --logdir OUT/logs`).
Ctrl-C ends the training after the current step, with a checkpoint. The same command then resumes
it. The number of steps, the learning rate, --gradient-clip, --val-every, --workers, --accelerator,
--devices and --nodes may change; everything else must stay the same.
"""
    add_config_arguments(parser)
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        '--resume',
        type=Path,
        metavar='CKPT',
        help='checkpoint of this training from which to resume (default: OUT/last.ckpt, if it '
        'exists)',
    )
    start.add_argument(
        '--restart',
        action='store_true',
        help='start over even if the run folder holds a checkpoint',
    )


def run(args: argparse.Namespace) -> None:
    """Train, or resume an interrupted training."""
    config = read_config(args)
    last = Path(config.out) / 'last.ckpt'
    resume = args.resume or (last if last.exists() and not args.restart else None)
    fit(config, resume_from=resume)
