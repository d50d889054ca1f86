"""Runs a node from the command line until it is asked to end: the ``main`` of every node."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.logging import get_logger

from depth_ros.nodes.camera_node import CameraNode
from depth_ros.nodes.monitor import RosHandler
from depth_ros.nodes.start import ENDING
from depth_ros.ros.startup import argument_problem, environment_problem, start_problem
from depth_ros.ros.transport import prepare_process, shared_memory_problem, until_shutdown

USAGE = """Options are those of every ROS 2 node: parameters with --ros-args -p NAME:=VALUE or
--params-file FILE, topics with -r image:=/camera/image_rect. The launch file starts both nodes:
ros2 launch depth_ros depth_ros.launch.py (--show-args). docs/parameters.md and
config/depth_ros.yaml list the parameters; 'ros2 param describe' shows those of a running node."""


def run(make_node: Callable[[], CameraNode], args: Sequence[str] | None = None) -> int:
    """Run a node until it is asked to end; the ``main`` of each node.

    Args:
        make_node: the node's class.
        args: command line; the process's by default.

    Returns:
        Exit code: 0 after SIGINT, SIGTERM or --help, 1 if arguments, environment or initial
        parameters are wrong.
    """
    given = sys.argv[1:] if args is None else list(args)
    if not {'-h', '--help'}.isdisjoint(given):
        print(sys.modules[make_node.__module__].__doc__, USAGE, sep='\n')
        return 0
    name = make_node.__module__.rpartition('.')[2]
    if make_node.__module__ == '__main__':
        name = Path(sys.argv[0]).stem
    if problem := argument_problem(given) or environment_problem():
        print(f'{name}: {problem}', file=sys.stderr)
        return 1
    # Whatever the signal meets, nothing is printed; ROS, once it is up, wakes the node by it.
    asked = threading.Event()
    for number in ENDING:
        signal.signal(number, lambda *_: asked.set())
    prepare_process()
    # How long a computing thread may keep the interpreter. The default of 5 ms is too long beside
    # a worker whose steps take one.
    sys.setswitchinterval(5e-4)
    # Waking OpenCV's threads takes longer than the millisecond of work that they would share.
    cv2.setNumThreads(1)
    node = None
    try:
        try:
            rclpy.init(args=given)
        except Exception as error:  # rclpy raises types of its own
            print(f'{name}: {start_problem(error)}', file=sys.stderr)
            return 1
        with until_shutdown():
            logger = get_logger('depth_ros')
            if problem := shared_memory_problem():
                logger.warning(problem)
            try:
                node = make_node()
            except ValueError as error:
                logger.fatal(str(error))
                return 1
            except Exception as error:
                if not rclpy.ok():
                    raise
                logger.fatal(start_problem(error))
                return 1
            logging.getLogger('depth_ros').addHandler(RosHandler(node.get_logger()))
            executor = SingleThreadedExecutor()
            executor.add_node(node)
            while rclpy.ok() and not asked.is_set():
                try:
                    executor.spin_once()
                except Exception as error:
                    if not rclpy.ok():
                        break
                    node.fail(error)
    finally:
        if node is not None:
            node.close()
        rclpy.try_shutdown()
        # Python sets signals back to their default while it ends, but not ignored ones.
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)
    return 0
