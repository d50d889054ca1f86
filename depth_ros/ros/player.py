"""Plays a rosbag2 recording: `python -m depth_ros.ros.player RECORDING`.

Publishes the recorded bytes as they are, so header stamps stay as recorded. Messages are paced by
their log times against the monotonic clock, and `/clock` carries the log time for nodes with
`use_sim_time`.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import select
import sys
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import rclpy
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock

from depth_ros.bags.messages import BagError, Message, header_stamp
from depth_ros.bags.reader import Bag
from depth_ros.files import write_file
from depth_ros.ros.transport import prepare_process, until_shutdown

LONGEST_PAUSE_NS = 60 * 10**9
"""A longer pause between two played messages is left out: a message of log time 0, or another
drive in the same recording."""


def play_seconds(log_times: Iterable[int]) -> float:
    """Return how long messages of these log times (ns) take at rate 1, without long pauses."""
    steps = (b - a for a, b in itertools.pairwise(log_times))
    return sum(step for step in steps if step <= LONGEST_PAUSE_NS) / 1e9


def message_class(msgtype: str) -> type | None:
    """Return the Python class of a type such as 'sensor_msgs/msg/Image', None if not installed."""
    package, _, name = msgtype.split('/')
    try:
        return getattr(importlib.import_module(f'{package}.msg'), name)
    except (ImportError, AttributeError):
        return None


class Player(Node):
    """Publishes the topics of a recording.

    Args:
        bag: The recording.
        topics: Those to play; None plays all whose message types are installed.
        remap: New names of topics, by recorded name.

    Attributes:
        published: What was sent, as rows (recorded topic, header stamp ns, monotonic time ns);
            only messages that have a header.
        latest_s: How late, at worst, a message was sent, seconds.
    """

    def __init__(
        self,
        bag: Bag,
        topics: Collection[str] | None = None,
        remap: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__('bag_player')
        self.published: list[tuple[str, int, int]] = []
        self.latest_s = 0.0
        self._bag = bag
        self._outputs: dict[str, Any] = {}
        self._stamped: set[str] = set()
        for name, topic in bag.topics.items():
            if topics is not None and name not in topics:
                continue
            kind = message_class(topic.msgtype)
            if kind is None:
                self.get_logger().warning(
                    f'{name} is not played: message type {topic.msgtype} is not installed'
                )
                continue
            self._outputs[name] = self.create_publisher(
                kind, (remap or {}).get(name, name), _qos(topic.latched)
            )
            if bag.has_header(topic.msgtype):
                self._stamped.add(name)
        self._clock = self.create_publisher(Clock, '/clock', 10)
        played = bag.messages(self._outputs)
        self._start_ns = next((m.log_ns for m in played), bag.start_ns)

    def wait_for_subscribers(self, counts: Mapping[str, int], timeout_s: float) -> None:
        """Wait until each recorded topic has its number of subscribers.

        Raises:
            TimeoutError: if a topic lacks them; the message names it.
        """
        end = time.monotonic() + timeout_s
        for name, count in counts.items():
            if name not in self._outputs:
                raise BagError(f'{name} is not played, so nobody can wait for its subscribers')
            while (found := self._outputs[name].get_subscription_count()) < count:
                if time.monotonic() > end:
                    raise TimeoutError(
                        f'{name} has {found} of {count} subscribers after {timeout_s:g} s'
                    )
                self._tick(self._start_ns)
                _sleep(0.02)

    def wait_for_line(self) -> None:
        """Wait for a line on standard input.

        Raises:
            ExternalShutdownException: if standard input has ended.
        """
        while not select.select([sys.stdin], [], [], 0.02)[0]:
            self._tick(self._start_ns)
            _sleep(0.0)
        if not sys.stdin.readline():
            raise ExternalShutdownException

    def play(self, rate: float = 1.0, clock_hz: float = 100.0) -> None:
        """Publish the recording once, `rate` times as fast as it was recorded.

        It begins at the first message that is played; pauses over `LONGEST_PAUSE_NS` are left out.
        """
        start, first = time.monotonic(), self._start_ns
        next_tick, before = start, first
        for message in self._bag.messages(self._outputs):
            pause, before = message.log_ns - before, message.log_ns
            if pause > LONGEST_PAUSE_NS:
                first += pause
                self.get_logger().warning(
                    f'a pause of {pause / 1e9:.1f} s before a message of {message.topic} is '
                    'left out'
                )
            due = start + (message.log_ns - first) / 1e9 / rate
            while next_tick < due:
                _sleep(next_tick - time.monotonic())
                self._tick(first + int((next_tick - start) * rate * 1e9))
                # After a delay one tick is enough: publishing the missed ones would delay playback.
                next_tick = max(next_tick, time.monotonic()) + 1 / clock_hz
            _sleep(due - time.monotonic())
            self._publish(message)
            self.latest_s = max(self.latest_s, time.monotonic() - due)
        self._tick(before)
        for output in self._outputs.values():
            output.wait_for_all_acked(Duration(seconds=2))

    def _publish(self, message: Message) -> None:
        # Taken before publishing, so that latencies include it.
        now = time.monotonic_ns()
        self._outputs[message.topic].publish(message.data)
        if message.topic in self._stamped:
            self.published.append((message.topic, header_stamp(message.data), now))

    def _tick(self, now_ns: int) -> None:
        clock = Clock()
        clock.clock.sec, clock.clock.nanosec = divmod(now_ns, 10**9)
        self._clock.publish(clock)


def _qos(latched: bool) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=10,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def _sleep(seconds: float) -> None:
    """Sleep in short steps, so that a shutdown is noticed."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if not rclpy.ok():
            raise ExternalShutdownException
        time.sleep(min(left, 0.1))
    if not rclpy.ok():
        raise ExternalShutdownException


def main(argv: list[str] | None = None) -> int:
    """Run the player; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog='depth_ros.ros.player', description=(__doc__ or '').split('\n')[0]
    )
    parser.add_argument('recording', type=Path, help='rosbag2 folder, .mcap or .db3 file')
    parser.add_argument('--rate', type=float, default=1.0, help='speed, 1 = as recorded')
    parser.add_argument('--clock', type=float, default=100.0, help='/clock messages a second')
    parser.add_argument('--topics', nargs='+', help='play only these')
    parser.add_argument('--remap', nargs='+', default=[], metavar='OLD:=NEW', help='rename topics')
    parser.add_argument(
        '--wait-for',
        nargs='+',
        default=[],
        metavar='TOPIC=COUNT',
        help='start when these topics have so many subscribers',
    )
    parser.add_argument('--paused', action='store_true', help='start at a line on standard input')
    parser.add_argument('--timeout', type=float, default=60.0, help='seconds for --wait-for')
    parser.add_argument('--loop', action='store_true', help='begin again at the end')
    parser.add_argument('--log', type=Path, help='write what was sent when, as JSON, to this file')
    arguments = parser.parse_args(argv)
    for name in ('rate', 'clock', 'timeout'):
        if not 0 < getattr(arguments, name) < float('inf'):
            parser.error(f'argument --{name}: {getattr(arguments, name)} is no positive number')
    remap = dict(pair.split(':=', 1) for pair in arguments.remap)
    wait_for = {name: int(count) for name, count in (w.split('=', 1) for w in arguments.wait_for)}

    prepare_process()
    rclpy.init()
    player = None
    try:
        with Bag(arguments.recording) as bag, until_shutdown():
            player = Player(bag, arguments.topics, remap)
            player.wait_for_subscribers(wait_for, arguments.timeout)
            if arguments.paused:
                player.wait_for_line()
            player.play(arguments.rate, arguments.clock)
            while arguments.loop:
                player.play(arguments.rate, arguments.clock)
    except (BagError, TimeoutError) as error:
        print(f'depth_ros.ros.player: {error}', file=sys.stderr)
        return 1
    finally:
        if player and arguments.log:
            write_file(
                arguments.log,
                json.dumps({'latest_s': player.latest_s, 'published': player.published}),
            )
        rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
