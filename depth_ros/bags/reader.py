"""Read rosbag2 recordings and ROS 1 bags without ROS, also what a crash has left of them."""

from __future__ import annotations

import heapq
import os
from collections.abc import Collection, Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from depth_ros.bags.messages import BagError, Message, damaged, message_types


class Topic(NamedTuple):
    """One topic of a recording: type name, number of messages, whether it is latched."""

    msgtype: str
    count: int  # pyright: ignore[reportIncompatibleMethodOverride]
    latched: bool


class Bag:
    """A recording, opened for reading. Use as a context manager.

    A recording that was cut short or never closed is read up to where it can be read no further,
    and `damage` tells so.

    Args:
        path: A rosbag2 folder, with metadata.yaml or without; or one `.mcap`, `.db3` or ROS 1
            `.bag` file. Storage files may be compressed (`.mcap.zstd`). ROS 1 messages come as the
            ROS 2 messages of their names.

    Attributes:
        path: As given.
        topics: The topics by name.
        start_ns, end_ns: Log times of the first and last message, nanoseconds.
        damage: What is wrong with the recording, how much could be read and how to mend it;
            None for a whole one.
        remarks: What is unusual about the recording, but takes nothing away.

    Raises:
        BagError: if the path is missing, is no recording, or nothing of the recording can be read;
            or what reads recordings is not installed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._types = message_types()
        from depth_ros.bags.storage import Storage  # here, as it needs `rosbags`

        self._storage = Storage(self.path, self._types)
        self.topics: dict[str, Topic] = {}
        for connection in self._storage.connections():
            _, count, latched = self.topics.get(connection.topic, Topic('', 0, False))
            self.topics[connection.topic] = Topic(
                connection.msgtype,
                count + connection.msgcount,
                latched or self._storage.is_latched(connection),
            )
        readers = self._storage.readers
        self.start_ns = min(reader.start_time for reader in readers)
        self.end_ns = max(reader.end_time for reader in readers) - 1
        self.remarks = [f'recording {self.path}: {text}' for text in self._storage.remarks]
        self.damage: str | None = None
        if self._storage.faults:
            count = sum(reader.message_count for reader in readers)
            seconds = (self.end_ns - self.start_ns) / 1e9
            damage = damaged(self.path, '; '.join(self._storage.faults))
            self.damage = f'{damage}; {count} messages over {seconds:.1f} s could be read'

    def messages(self, topics: Collection[str] | None = None) -> Iterator[Message]:
        """Yield the messages of some topics (None: of all) in the order of their log times.

        In a file without an index, those within 16 MiB of each other are put in order.

        Raises:
            BagError: if the recording is damaged.
        """
        merged = heapq.merge(*self._storage.streams(topics), key=itemgetter(0))
        while True:
            try:
                _, message = next(merged)
            except StopIteration:
                return
            except Exception as error:  # rosbags, sqlite and zstd each have their own kinds
                raise BagError(damaged(self.path, error)) from error
            if message is not None:
                yield message

    def first(self, topic: str) -> Any | None:
        """Return the first message of a topic, deserialised; None if it has none."""
        for message in self.messages([topic]):
            return self.decode(message)
        return None

    def decode(self, message: Message) -> Any:
        """Deserialise a message.

        Raises:
            BagError: if its type is unknown or its bytes are no such message.
        """
        try:
            if message.msgtype not in self._types.fielddefs:
                self._storage.learn_type(message.msgtype)
            return self._types.deserialize_cdr(message.data, message.msgtype)
        except Exception as error:
            raise BagError(
                f'recording {self.path}: a message of {message.topic} at {message.log_ns} ns is '
                f'no valid {message.msgtype} ({error}): leave the topic out or record it again'
            ) from error

    def has_header(self, msgtype: str) -> bool:
        """Tell whether messages of this type begin with a std_msgs/Header."""
        fields = self._types.fielddefs.get(msgtype, ((), ()))[1]
        return bool(fields) and fields[0][1][1] == 'std_msgs/msg/Header'

    def close(self) -> None:
        """Close the files."""
        self._storage.close()

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
