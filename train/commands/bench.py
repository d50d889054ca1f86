"""``python -m train bench``: time losses, networks and a training step of FSRE-Depth.

Everything runs on this machine's processor, at 192x640, batch 1, on random images. With a clone of
the paper's own code, both codes take turns, so that other load on the machine slows both equally.
Each part of each code has its own process: earlier work in a process moves the allocator's
thresholds, which can change the time of later work by a fifth.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from train.bench.reference import reference_work
from train.bench.turns import Code, in_turns
from train.bench.works import HEIGHT, WIDTH, our_work, works

NAME_WIDTH = 62


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line."""
    parser.add_argument(
        '--threads',
        type=int,
        default=1,
        help='number of threads; with 1, processor time is measured, else wall-clock time '
        '(%(default)s)',
    )
    parser.add_argument(
        '--runs',
        type=int,
        default=10,
        help='number of runs of each part; the median is printed (%(default)s)',
    )
    parser.add_argument(
        '--reference',
        type=Path,
        metavar='FOLDER',
        help='clone of https://github.com/hyBlue/FSRE-Depth to compare with',
    )


def run(args: argparse.Namespace) -> None:
    """Time all parts and print a table.

    Raises:
        ValueError: if the reference is not a clone of FSRE-Depth, or a number is not positive.
    """
    if args.threads < 1 or args.runs < 1:
        raise ValueError('--threads and --runs must be at least 1')
    if args.reference and not (args.reference / 'trainer_parallel.py').is_file():
        raise ValueError(
            f"'{args.reference}' is no clone of https://github.com/hyBlue/FSRE-Depth:"
            ' trainer_parallel.py is missing'
        )
    print(f'{WIDTH}x{HEIGHT}, batch 1, {args.threads} threads, median of {args.runs} runs, ms')
    header = f'{"paper code":>12}{"ratio":>8}' if args.reference else ''
    print(f'{"":{NAME_WIDTH}}{"ours":>12}{header}')
    with tempfile.TemporaryDirectory() as folder:
        for name, ours, theirs in works(Path(folder)):
            codes: list[Code] = [partial(our_work, ours)]
            if args.reference:
                codes.append(partial(reference_work, args.reference, theirs))
            times, peaks, libraries = in_turns(codes, args.threads, args.runs)
            print_row(name, times)
    own = [peak - loaded for peak, loaded in zip(peaks, libraries, strict=True)]
    print_row(f'{name}, peak memory, MB, all', peaks)
    print_row(f'{name}, peak memory, MB, without the loaded libraries', own)


def print_row(name: str, values: Sequence[float]) -> None:
    """Print our value and, if there is one, that of the paper's code, with their ratio."""
    ratio = f'{values[1] / values[0]:8.2f}' if len(values) > 1 else ''
    line = ''.join(f'{x:12.1f}' for x in values)
    print(f'{name:{NAME_WIDTH}}{line}{ratio}', flush=True)
