"""rosbag2 recordings without ROS: write, read, find the topics, decode the pictures.

Built on the `rosbags` library; neither rclpy nor a ROS 2 installation is needed.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import cv2
import numpy as np
from rosbags.interfaces import (
    MessageDefinitionFormat,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
ODOMETRY = "nav_msgs/msg/Odometry"
TF = "tf2_msgs/msg/TFMessage"


class BagError(RuntimeError):
    """A recording cannot be used; the message names it, the cause and the remedy."""


def message_types() -> Any:
    """Return a fresh `rosbags` typestore with the message types of ROS 2 Jazzy.

    They are the same in Kilted for every type that this package reads or writes.
    """
    return get_typestore(Stores.ROS2_JAZZY)


class BagWriter:
    """Writes a rosbag2 recording that appears at its path only when it is complete.

    Use as a context manager. Everything goes to a hidden folder beside `path`, which is moved
    into place on a clean exit and removed when the block raises.

        with BagWriter(path) as bag:
            Header = bag.types.types["std_msgs/msg/Header"]
            bag.write("/camera/header", "std_msgs/msg/Header", stamp_ns, Header(...))

    Args:
        path: Folder to create; its name also names the storage file, `<name>/<name>.mcap`.
        storage: "mcap" or "sqlite3".
        compress: Compress mcap chunks with zstd.
        latched: Topics whose late subscribers get the last message (transient local).
        overwrite: Replace a recording that is already there, at the end and not before.

    Raises:
        BagError: `path` exists and `overwrite` is false.
    """

    def __init__(
        self,
        path: str | Path,
        storage: str = "mcap",
        *,
        compress: bool = False,
        latched: Collection[str] = ("/tf_static",),
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        if self.path.exists() and not overwrite:
            raise BagError(f"{self.path} exists already: remove it or choose another path")
        self.types = message_types()
        self._latched = frozenset(latched)
        self._connections: dict[str, Any] = {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(prefix=f".{self.path.name}.", dir=self.path.parent))
        self._writer = Writer(
            self._folder / self.path.name, version=9, storage_plugin=StoragePlugin[storage.upper()]
        )
        if compress:
            self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._writer.open()

    def write(self, topic: str, msgtype: str, stamp_ns: int, message: Any) -> None:
        """Append one message.

        Args:
            topic: Absolute topic name.
            msgtype: Type name such as "sensor_msgs/msg/Image".
            stamp_ns: Log time of the recording, nanoseconds.
            message: The message as serialised CDR bytes, or a `rosbags` message object.
        """
        connection = self._connections.get(topic)
        if connection is None:
            connection = self._writer.add_connection(
                topic,
                msgtype,
                typestore=self.types,
                offered_qos_profiles=[_qos(latched=topic in self._latched)],
            )
            self._connections[topic] = connection
        if not isinstance(message, (bytes, bytearray, memoryview)):
            message = self.types.serialize_cdr(message, msgtype)
        self._writer.write(connection, stamp_ns, message)

    def close(self) -> None:
        """Finish the recording and move it to its path."""
        self._writer.close()
        if self.path.exists():
            os.replace(self.path, self._folder / "replaced")
        os.replace(self._folder / self.path.name, self.path)
        shutil.rmtree(self._folder)

    def abort(self) -> None:
        """Give the recording up and leave nothing behind."""
        self._writer.abort()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> BagWriter:
        """Return the writer itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close after a clean block, abort after an exception."""
        if kind is None:
            self.close()
        else:
            self.abort()


def _qos(latched: bool) -> Qos:
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
