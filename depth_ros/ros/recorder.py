"""Records topics to a rosbag2 recording: `python -m depth_ros.ros.recorder PATH --topics /a /b`.

Topics are subscribed as soon as somebody publishes them, with the publishers' own quality of
service. Messages are kept as the bytes that arrived; a thread of its own writes them, so that
reception never waits for the disk. Ends, and finishes the recording, on SIGINT or SIGTERM.
"""

from __future__ import annotations

import argparse
import queue
import sys
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import TextIO

import rclpy
from rclpy.clock import Clock
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.utilities import remove_ros_args

from depth_ros.bags.messages import BagError, header_stamp, message_types
from depth_ros.bags.writer import BagWriter
from depth_ros.ros.player import message_class
from depth_ros.ros.transport import prepare_process, until_shutdown

Row = tuple[str, str, int, bytes, bool]


class Recorder(Node):
    """Subscribes topics and hands what arrives to a queue.

    The log time of a message is this node's clock, so the simulated time with `use_sim_time`.

    Args:
        topics: Names to record.
        log: Gets a line `topic,header stamp ns,monotonic receive time ns` for each message that
            has a header; None for no log.

    Attributes:
        messages: Rows (topic, type name, log time ns, bytes, latched), in order of arrival; None
            ends them.
    """

    def __init__(self, topics: Collection[str], log: TextIO | None = None) -> None:
        super().__init__('bag_recorder')
        self.messages: queue.SimpleQueue[Row | None] = queue.SimpleQueue()
        self._waiting = set(topics)
        self._log = log
        self._types = message_types()
        self.create_timer(0.1, self._discover, clock=Clock())
        self._discover()

    def _discover(self) -> None:
        for topic in sorted(self._waiting):
            publishers = self.get_publishers_info_by_topic(topic)
            if publishers:
                self._waiting.discard(topic)
                self._subscribe(topic, publishers)

    def _subscribe(self, topic: str, publishers: list) -> None:
        msgtype = publishers[0].topic_type
        kind = message_class(msgtype)
        if kind is None or msgtype not in self._types.fielddefs:
            self.get_logger().warning(
                f'{topic} is not recorded: message type {msgtype} is not installed'
            )
            return
        fields = self._types.fielddefs[msgtype][1]
        stamped = bool(fields) and fields[0][1][1] == 'std_msgs/msg/Header'
        reliable = all(p.qos_profile.reliability == ReliabilityPolicy.RELIABLE for p in publishers)
        latched = all(
            p.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for p in publishers
        )

        def keep(data: bytes) -> None:
            received = time.monotonic_ns()
            now = self.get_clock().now().nanoseconds
            self.messages.put((topic, msgtype, now, data, latched))
            if stamped and self._log:
                self._log.write(f'{topic},{header_stamp(data)},{received}\n')
                self._log.flush()

        self.create_subscription(
            kind,
            topic,
            keep,
            QoSProfile(
                history=HistoryPolicy.KEEP_LAST,
                depth=50,
                reliability=ReliabilityPolicy.RELIABLE
                if reliable
                else ReliabilityPolicy.BEST_EFFORT,
                durability=DurabilityPolicy.TRANSIENT_LOCAL
                if latched
                else DurabilityPolicy.VOLATILE,
            ),
            raw=True,
        )


def _write(recorder: Recorder, writer: BagWriter, failed: list[Exception]) -> None:
    """Write until the queue yields None; a failure ends the recording."""
    early: list[Row] = []  # rows before the first tick of a simulated clock; they get its time
    try:
        while (row := recorder.messages.get()) is not None:
            early.append(row)
            if row[2]:
                _write_at(row[2], early, writer)
        _write_at(0, early, writer)
    except Exception as error:  # a thread's exception would be lost
        failed.append(error)
        rclpy.try_shutdown()


def _write_at(log_ns: int, rows: list[Row], writer: BagWriter) -> None:
    """Write rows and clear the list; those without a log time get ``log_ns``."""
    for topic, msgtype, own, data, latched in rows:
        writer.write(topic, msgtype, own or log_ns, data, latched=latched)
    rows.clear()


def main(argv: list[str] | None = None) -> int:
    """Run the recorder; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog='depth_ros.ros.recorder', description=(__doc__ or '').split('\n')[0]
    )
    parser.add_argument('recording', type=Path, help='rosbag2 folder to create')
    parser.add_argument('--topics', nargs='+', required=True, help='topics to record')
    parser.add_argument('--overwrite', action='store_true', help='replace an existing recording')
    parser.add_argument(
        '--uncompressed', action='store_true', help='larger files for less time of the processor'
    )
    parser.add_argument('--log', type=Path, help='write what arrived when, as CSV, to this file')
    arguments = parser.parse_args(remove_ros_args(argv)[1:] if argv is None else argv)

    prepare_process()
    failed: list[Exception] = []
    log = arguments.log.open('w') if arguments.log else None
    rclpy.init(args=argv)
    try:
        with (
            until_shutdown(),
            BagWriter(
                arguments.recording,
                compress=not arguments.uncompressed,
                overwrite=arguments.overwrite,
            ) as writer,
        ):
            recorder = Recorder(arguments.topics, log)
            thread = threading.Thread(target=_write, args=(recorder, writer, failed))
            thread.start()
            try:
                with until_shutdown():
                    rclpy.spin(recorder)
            finally:
                recorder.messages.put(None)
                thread.join()
            if failed:
                raise failed[0]
    except (BagError, OSError) as error:
        print(f'depth_ros.ros.recorder: {error}', file=sys.stderr)
        return 1
    finally:
        if log:
            log.close()
        rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
