"""Options that several commands share. Imports no ROS and no optional package."""

from __future__ import annotations

import argparse
from pathlib import Path


def positive(text: str) -> float:
    """Parse a positive, finite number for `argparse`."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float('inf'):
        raise argparse.ArgumentTypeError(f"'{text}' is no positive number")
    return value


def count(text: str) -> int:
    """Parse a whole number of at least one for `argparse`."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number from 1 on")
    return int(text)


def add_model_option(parser: argparse.ArgumentParser) -> None:
    """Add --model: files for `depth_ros.inference.model_files.chosen_models`, None if not given."""
    parser.add_argument(
        '--model',
        nargs='+',
        type=Path,
        metavar='FILE',
        help='perception model, pose model, or '
        'both, in any order; or a folder with them (default: the shipped ones)',
    )
