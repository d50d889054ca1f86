"""Read a ROS 1 bag as if it were one of ROS 2."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from rosbags.convert.converter import is_same_wireformat, migrate_bytes
from rosbags.interfaces import Connection
from rosbags.rosbag1 import Reader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from depth_ros.bags.messages import TF


class Ros1Reader:
    """A ROS 1 bag, read as if it were one of ROS 2. Has what `Bag` uses of a `rosbags` reader.

    Args:
        file: The bag.
        types: The typestore of ROS 2, which learns the types that it does not know.
    """

    _RENAMED = {'tf/msg/tfMessage': TF}

    def __init__(self, file: Path, types: Any) -> None:
        self._reader = Reader(file)
        self._reader.open()
        self._types = types
        self._converters: dict[str, Callable[[bytes], memoryview]] = {}
        self._originals = {c.id: c for c in self._reader.connections}
        self.connections = [
            c._replace(msgtype=self._RENAMED.get(c.msgtype, c.msgtype))
            for c in self._reader.connections
        ]
        self.message_count = self._reader.message_count
        self.start_time, self.end_time = self._reader.start_time, self._reader.end_time

    def messages(
        self, connections: Collection[Connection]
    ) -> Iterator[tuple[Connection, int, memoryview]]:
        """Yield connection, log time in nanoseconds and CDR bytes in the order of log times."""
        wanted = {c.id: c for c in connections}
        originals = [self._originals[key] for key in wanted]
        for original, log_ns, data in self._reader.messages(connections=originals):
            connection = wanted[original.id]
            if connection.msgtype not in self._converters:
                self._converters[connection.msgtype] = self._converter(original, connection.msgtype)
            yield connection, log_ns, self._converters[connection.msgtype](data)

    def _converter(self, original: Connection, msgtype: str) -> Callable[[bytes], memoryview]:
        """Return what turns ROS 1 bytes of a type into CDR."""
        old = get_typestore(Stores.EMPTY)
        old.register(get_types_from_msg(original.msgdef.data, original.msgtype))
        known = self._types.fielddefs
        self._types.register({k: v for k, v in old.fielddefs.items() if k not in known})
        if is_same_wireformat(old, self._types, original.msgtype, msgtype):
            return partial(self._types.ros1_to_cdr, typename=msgtype)
        # ROS 2 has changed the type: field by field, by their names.
        return partial(
            migrate_bytes,
            old,
            self._types,
            original.msgtype,
            msgtype,
            {},
            src_is2=False,
            dst_is2=True,
        )

    def close(self) -> None:
        """Close the file."""
        self._reader.close()
