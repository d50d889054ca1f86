"""A recording through the real nodes: `depth_ros_demo [--bag RECORDING]`.

`evaluate_bag --mode live`, on the shipped recording if no other is given.
"""

from __future__ import annotations

import sys
from pathlib import Path

from depth_ros.commands import evaluate_bag
from depth_ros.share import share_path

OUT = Path('out/demo')


def main(argv: list[str] | None = None) -> int:
    """Run the demo; returns the exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    bag: list[str] = []
    if '--bag' in given:
        at = given.index('--bag')
        bag = given[at + 1 : at + 2]
        del given[at : at + 2]
    if not bag and not {'-h', '--help'} & set(given):
        try:
            bag = [str(share_path('demo/street'))]
        except FileNotFoundError as error:
            print(
                f'depth_ros_demo: the shipped recording is not installed ({error}): give one '
                'with --bag',
                file=sys.stderr,
            )
            return 1
    return evaluate_bag.main([*bag, '--mode', 'live', '--out', str(OUT), *given])


if __name__ == '__main__':
    sys.exit(main())
