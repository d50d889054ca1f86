"""Write a rosbag2 recording, which appears only when it is complete."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from depth_ros.bags.messages import BagError, message_types

if TYPE_CHECKING:
    from rosbags.interfaces import Qos


class BagWriter:
    """Writes a rosbag2 recording that appears at its path only when it is complete.

    Use as a context manager. Everything goes to a hidden folder beside `path`, which is moved
    into place on a clean exit and removed when the block raises.

        with BagWriter(path) as bag:
            Clock = bag.types.types['rosgraph_msgs/msg/Clock']
            bag.write('/clock', 'rosgraph_msgs/msg/Clock', stamp_ns, Clock(...))

    Args:
        path: Folder to create; its name also names the storage file, `<name>/<name>.mcap`.
        storage: 'mcap' or 'sqlite3'.
        compress: Compress the chunks of an mcap file with zstd.
        overwrite: Replace a recording that is already there, at the end and not before.

    Raises:
        BagError: if `path` exists and `overwrite` is false; or what writes recordings is not
            installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        storage: str = 'mcap',
        *,
        compress: bool = False,
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        if self.path.exists() and not overwrite:
            raise BagError(f'{self.path} exists already: remove it or choose another path')
        self.types = message_types()
        from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

        self._connections: dict[str, Any] = {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(prefix=f'.{self.path.name}.', dir=self.path.parent))
        self._writer = Writer(
            self._folder / self.path.name, version=9, storage_plugin=StoragePlugin[storage.upper()]
        )
        if compress:
            self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._writer.open()

    def write(
        self, topic: str, msgtype: str, stamp_ns: int, message: Any, *, latched: bool = False
    ) -> None:
        """Append one message.

        Args:
            topic: Absolute topic name.
            msgtype: Type name such as 'sensor_msgs/msg/Image'.
            stamp_ns: Log time of the recording, nanoseconds.
            message: The message as serialised CDR bytes, or a `rosbags` message object.
            latched: Late subscribers of the topic are to get its last message (transient local);
                always so for /tf_static. The topic's first message decides.
        """
        connection = self._connections.get(topic)
        if connection is None:
            connection = self._writer.add_connection(
                topic,
                msgtype,
                typestore=self.types,
                offered_qos_profiles=[_qos(latched or topic == '/tf_static')],
            )
            self._connections[topic] = connection
        if not isinstance(message, (bytes, bytearray, memoryview)):
            message = self.types.serialize_cdr(message, msgtype)
        self._writer.write(connection, stamp_ns, memoryview(message))

    def close(self) -> None:
        """Finish the recording and move it to its path."""
        self._writer.close()
        if self.path.exists():
            os.replace(self.path, self._folder / 'replaced')
        os.replace(self._folder / self.path.name, self.path)
        shutil.rmtree(self._folder)

    def abort(self) -> None:
        """Give the recording up and leave nothing behind."""
        self._writer.abort()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def _qos(latched: bool) -> Qos:
    from rosbags.interfaces import (
        Qos,
        QosDurability,
        QosHistory,
        QosLiveliness,
        QosReliability,
        QosTime,
    )

    unspecified = QosTime(0, 0)
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=1 if latched else 10,
        reliability=QosReliability.RELIABLE,
        durability=QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        deadline=unspecified,
        lifespan=unspecified,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=unspecified,
        avoid_ros_namespace_conventions=False,
    )
