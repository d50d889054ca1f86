"""The storage files of a recording, each opened with what can read it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from rosbags.interfaces import (
    Connection,
    ConnectionExtRosbag2,
    MessageDefinitionFormat,
    QosDurability,
)
from rosbags.rosbag2 import Reader, ReaderError
from rosbags.typesys import get_types_from_idl, get_types_from_msg

from depth_ros.bags.messages import ROS1_SUFFIXES, BagError, Message, damaged
from depth_ros.bags.recovery import Db3Scan, McapScan, is_whole, zstd
from depth_ros.bags.ros1 import Ros1Reader


class StorageReader(Protocol):
    """What `Bag` uses of a reader of one storage file, ours or one of `rosbags`.

    Attributes:
        connections: The topics, with their numbers of messages.
        message_count: Number of messages.
        start_time, end_time: First log time and the one after the last, nanoseconds.
    """

    @property
    def connections(self) -> Collection[Connection]: ...
    @property
    def message_count(self) -> int: ...
    @property
    def start_time(self) -> int: ...
    @property
    def end_time(self) -> int: ...

    def messages(
        self, connections: Collection[Connection]
    ) -> Iterator[tuple[Connection, int, bytes | memoryview]]:
        """Yield connection, log time in nanoseconds and CDR bytes in the order of log times."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class Storage:
    """The opened storage files of a recording.

    Args:
        path: As `Bag` takes it.
        types: The typestore, which learns the types that the recording defines.

    Attributes:
        readers: One reader for each file, or one for all of them.
        faults: What is wrong with the files.

    Raises:
        BagError: None of it can be read, or it holds no messages.
    """

    def __init__(self, path: Path, types: Any) -> None:
        self._types = types
        self.readers, self.faults = _open(path, types)
        if not any(reader.message_count for reader in self.readers):
            self.close()
            if self.faults:
                raise BagError(damaged(path, '; '.join(self.faults)))
            raise BagError(f'recording {path} holds no messages: record it again')

    def connections(self) -> Iterator[Connection]:
        """Yield the topics of every reader."""
        for reader in self.readers:
            yield from reader.connections

    @staticmethod
    def is_latched(connection: Connection) -> bool:
        """Tell whether late subscribers get the topic's last message."""
        if isinstance(connection.ext, ConnectionExtRosbag2):
            return any(
                qos.durability is QosDurability.TRANSIENT_LOCAL
                for qos in connection.ext.offered_qos_profiles
            )
        return bool(connection.ext.latching)

    def streams(self, topics: Collection[str] | None) -> list[Iterator[tuple[int, Message | None]]]:
        """Return, for each reader, the log times and messages of some topics (None: of all).

        The first item of each has no message, only the time of the first: a merge then opens each
        reader when its time has come, not before.
        """
        return [_stream(reader, topics) for reader in self.readers]

    def learn_type(self, msgtype: str) -> None:
        """Register a message type from its definition in the recording.

        Raises:
            ValueError: The recording does not define it.
        """
        definition = next(
            (
                c.msgdef
                for c in self.connections()
                if c.msgtype == msgtype and c.msgdef.format is not MessageDefinitionFormat.NONE
            ),
            None,
        )
        if definition is None:
            raise ValueError('a type that the recording does not define')
        types: dict[str, Any] = {}
        if definition.format is MessageDefinitionFormat.IDL:
            for text in re.split(r'^={80}\nIDL: .*\n', definition.data, flags=re.MULTILINE):
                types |= get_types_from_idl(text) if text.strip() else {}
        else:
            types = get_types_from_msg(definition.data, msgtype)
        known = self._types.fielddefs
        self._types.register({k: v for k, v in types.items() if k not in known})

    def close(self) -> None:
        """Close the files."""
        for reader in self.readers:
            reader.close()


def _open(path: Path, types: Any) -> tuple[list[StorageReader], list[str]]:
    """Open a recording.

    Args:
        path: As `Bag` takes it.
        types: The typestore, which learns the types of ROS 1 messages.

    Returns:
        Readers of its files, and what is wrong with them.

    Raises:
        BagError: None of it can be read.
    """
    files, faults = _storage_files(path), []
    if path.is_dir() and (path / 'metadata.yaml').is_file() and all(map(is_whole, files)):
        reader = Reader(path)
        try:
            reader.open()
            return [reader], []
        except Exception as error:  # rosbags, sqlite and yaml each have their own kinds
            # What rosbags does not foresee, such as schemas of other encodings, a scan may read.
            if isinstance(error, ReaderError) or not files:
                faults.append(str(error))
    readers: list[StorageReader] = []
    for file in files:
        try:
            reader = _open_file(file, types)
        except BagError as error:
            if len(files) == 1:
                raise
            faults.append(str(error))
        else:
            readers.append(reader)
            faults += [f'{file.name} {fault}' for fault in getattr(reader, 'faults', ())]
    if not readers:
        raise BagError(damaged(path, '; '.join(faults)))
    return readers, faults


def _storage_files(path: Path) -> list[Path]:
    """Return the storage files of a recording; none if only its metadata.yaml knows them."""
    if not path.exists():
        raise BagError(f'recording {path} does not exist: check the path')
    if path.is_file():
        if path.suffix not in ('.mcap', '.db3', *ROS1_SUFFIXES):
            raise BagError(
                f'{path} is no rosbag2 recording: give a rosbag2 folder, an .mcap or a .db3 file, '
                'or a ROS 1 .bag file'
            )
        return [path]
    files = sorted(p for p in path.iterdir() if p.suffix in ('.mcap', '.db3'))
    if (path / 'metadata.yaml').is_file():
        return files
    if not files:
        raise BagError(
            f'{path} has no metadata.yaml, .mcap or .db3 file: give the folder of a rosbag2 '
            'recording, or a ROS 1 .bag file'
        )
    if len({file.suffix for file in files}) > 1:
        raise BagError(f'{path} has .mcap and .db3 files but no metadata.yaml: give one of them')
    return files


def _open_file(file: Path, types: Any) -> StorageReader:
    """Open one storage file with `rosbags`, or without it where its index is missing.

    Raises:
        BagError: Nothing of it can be read.
    """
    if not file.stat().st_size:
        raise BagError(f'recording {file} is empty (0 bytes): record it again')
    try:
        if file.suffix in ROS1_SUFFIXES:
            return Ros1Reader(file, types)
        if is_whole(file):
            reader = Reader(file)
            with suppress(Exception):  # then it only looks whole
                reader.open()
                return reader
        return McapScan(file) if file.suffix == '.mcap' else Db3Scan(file)
    except Exception as error:  # rosbags, sqlite and yaml each have their own kinds
        raise BagError(damaged(file, error)) from error


def _stream(
    reader: StorageReader, topics: Collection[str] | None
) -> Iterator[tuple[int, Message | None]]:
    """Yield the log times and messages of one reader.

    The first item has no message, only the time of the first: a merge of several readers then
    opens each one when its time has come, not before.
    """
    wanted = [c for c in reader.connections if topics is None or c.topic in topics]
    if not wanted:
        return
    yield reader.start_time, None
    for connection, log_ns, data in reader.messages(connections=wanted):
        # The recorder may have compressed each message: zstd's magic, while CDR begins with 0.
        data = zstd.decompress(data) if data[:4] == b'\x28\xb5\x2f\xfd' else bytes(data)
        yield log_ns, Message(connection.topic, connection.msgtype, log_ns, data)
