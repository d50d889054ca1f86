"""`python -m train` from any folder: `depth_ros_train COMMAND`.

The training lies beside the package in a checkout, and is not installed with it.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
"""Folder that holds this package, and in a checkout the training beside it."""


def main() -> int:
    """Run a command of the training; does not return where it has run."""
    if not (CHECKOUT / 'train' / '__main__.py').is_file():
        print(
            f'depth_ros_train: there is no training beside {CHECKOUT / "depth_ros"}: it comes with '
            'a checkout of depth_ros, where `make env` makes its environment',
            file=sys.stderr,
        )
        return 1
    if str(CHECKOUT) not in sys.path:
        sys.path.insert(0, str(CHECKOUT))
    runpy.run_module('train', run_name='__main__', alter_sys=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())
