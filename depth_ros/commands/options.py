"""Options that several commands share. Imports no ROS and no optional package."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from depth_ros.inference.parity_measures import Bounds


def command_parser(name: str, doc: str | None, end: str = '.') -> argparse.ArgumentParser:
    """Make a parser that explains a command by the docstring of its module.

    Args:
        name: The command.
        doc: `What it does: an example`, then paragraphs that come after the options in the help.
        end: What the first sentence ends with.
    """
    summary, epilog = (doc or '').split('\n\n', 1)
    return argparse.ArgumentParser(
        prog=name,
        description=summary.split(': ')[0] + end,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


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


_BOUNDS = {
    'depth_error': 'mean relative error of depth, and change of its scale, in any image',
    'invalid': 'share of pixels with a depth in one of both only, in any image',
    'label_agreement': 'least share of pixels of the same class in any image',
    'translation_error': 'error of any translation, as a share of the mean one',
    'rotation_error': 'error of any rotation, degrees',
    'abs_rel_change': 'relative change of Abs Rel against ground truth, where there is some',
    'mean_iou_change': 'change of mean IoU against ground truth; 0.01 is one point',
}


def add_bounds(parser: argparse._ArgumentGroup, options: Mapping[str, str]) -> None:
    """Add an option for each field of :class:`depth_ros.inference.parity_measures.Bounds`."""
    for item in fields(Bounds):
        parser.add_argument(
            options[item.name],
            dest=item.name,
            type=positive,
            default=item.default,
            metavar='X',
            help=f'{_BOUNDS[item.name]} (%(default)g)',
        )


def given_bounds(arguments: argparse.Namespace) -> Bounds:
    """What the options of :func:`add_bounds` say."""
    return Bounds(**{item.name: getattr(arguments, item.name) for item in fields(Bounds)})
