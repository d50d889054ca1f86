"""Starts a node so that SIGINT and SIGTERM end it quietly, also while it still loads.

Loading ROS and a runtime takes a second or more, in which Ctrl-C or systemd would get a traceback.
This file loads nothing before the signals are taken care of.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys

from depth_ros.packages import MissingPackageError, require_packages

ENDING = (signal.SIGINT, signal.SIGTERM)
"""Signals that ask a node to end."""


def start(module: str) -> int:
    """Load a node and run it.

    Args:
        module: Of `depth_ros.nodes`, with a `main`.

    Returns:
        Exit code, see `depth_ros.nodes.run.run`; 1 also if a package is missing.
    """
    for number in ENDING:
        signal.signal(number, lambda *_: os._exit(0))  # there is nothing to clean up yet
    try:
        require_packages(f'the node {module}', 'rclpy', 'numpy', 'cv2')
    except MissingPackageError as error:
        print(f'{module}: {error}', file=sys.stderr)
        return 1
    return importlib.import_module(f'depth_ros.nodes.{module}').main()


def perception_node() -> int:
    """Run the perception node."""
    return start('perception_node')


def odometry_node() -> int:
    """Run the odometry node."""
    return start('odometry_node')


if __name__ == '__main__':
    sys.exit(start(sys.argv.pop(1)))
