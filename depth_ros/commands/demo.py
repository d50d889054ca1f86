"""Recordings through the real nodes: `depth_ros_demo [--bag RECORDING]`.

`evaluate_bag --mode live`, on the two shipped recordings if no other is given: a synthetic street
with ground truth, then a real highway.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from depth_ros.commands import evaluate_bag
from depth_ros.share import share_path

OUT = Path('out/demo')
SHIPPED = {'demo/street': '.', 'demo/highway': 'highway'}
"""The shipped recordings, and where below the output folder the results of each go."""


def main(argv: list[str] | None = None) -> int:
    """Run the demo; returns the exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser('depth_ros_demo', add_help=False, allow_abbrev=False)
    parser.add_argument('--bag', action='append', default=[])
    parser.add_argument('--out', type=Path, default=OUT)
    known, options = parser.parse_known_args(given)
    if known.bag or {'-h', '--help'} & set(given):
        return _evaluate(known.bag, known.out, options)
    for name, folder in SHIPPED.items():
        try:
            bag = share_path(name)
        except FileNotFoundError as error:
            print(
                f'depth_ros_demo: the shipped recording is not installed ({error}): give one '
                'with --bag',
                file=sys.stderr,
            )
            return 1
        status = _evaluate([str(bag)], known.out / folder, options)
        if status:
            return status
    return 0


def _evaluate(bags: list[str], out: Path, options: list[str]) -> int:
    """Judge recordings live; returns the exit status."""
    return evaluate_bag.main([*bags, '--mode', 'live', '--out', str(out), *options])


if __name__ == '__main__':
    sys.exit(main())
