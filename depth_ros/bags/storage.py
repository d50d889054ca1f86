"""The storage files of a recording, each opened with what can read it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Protocol

from rosbags.interfaces import (
    Connection,
    ConnectionExtRosbag2,
    MessageDefinitionFormat,
    QosDurability,
)
from rosbags.rosbag2 import Reader
from rosbags.typesys import get_types_from_idl, get_types_from_msg

from depth_ros.bags.files import COMPRESSED_SUFFIXES, Files, storage_files
from depth_ros.bags.messages import ROS1_SUFFIXES, BagError, Message, damaged
from depth_ros.bags.recovery import Db3Scan, McapScan, is_whole, zstd
from depth_ros.bags.ros1 import Ros1Reader
from depth_ros.bags.unpack import Unpacked, unpacked


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
        readers: One reader for each file.
        faults: What is wrong with the files.
        remarks: What is unusual about them, but takes nothing away.

    Raises:
        BagError: if none of it can be read, or it holds no messages.
    """

    def __init__(self, path: Path, types: Any) -> None:
        self._types = types
        self.readers: list[StorageReader] = []
        self._unpacked: list[Unpacked] = []
        files = storage_files(path)
        self.faults, self.remarks = files.faults, files.remarks
        self._stack = ExitStack()
        try:
            self._open(path, files)
        except BaseException:
            self.close()
            raise

    def _open(self, path: Path, files: Files) -> None:
        end = 0
        for file in files.paths:
            try:
                reader = self._open_file(file)
            except BagError as error:
                if len(files.paths) == 1:
                    raise
                self.faults.append(str(error))
                continue
            self._stack.callback(reader.close)
            if file in files.unnamed and reader.message_count:
                if reader.start_time < end:  # such as what `mcap recover` made of another
                    self.remarks.append(
                        f'{file.name} is left out: metadata.yaml does not name it, and it begins '
                        'before the others end'
                    )
                    continue
                self.remarks.append(f'metadata.yaml does not name {file.name}, which is read, too')
            end = max(end, reader.end_time)
            self.readers.append(reader)
            self.faults += [f'{file.name} {fault}' for fault in getattr(reader, 'faults', ())]
            self.remarks += [f'{file.name} {text}' for text in getattr(reader, 'remarks', ())]
        if not any(reader.message_count for reader in self.readers):
            if self.faults:
                raise BagError(damaged(path, '; '.join(self.faults)))
            raise BagError(f'recording {path} holds no messages: record it again')

    def _open_file(self, file: Path) -> StorageReader:
        """Open one storage file; what a compressor made of one is unpacked first.

        Raises:
            BagError: if nothing of it can be read.
        """
        if file.suffix not in COMPRESSED_SUFFIXES:
            return _open_file(file, self._types)
        self._unpacked.append(unpacked(file))
        plain = self._unpacked[-1].path
        try:
            return _open_file(plain, self._types)
        except BagError as error:
            raise BagError(str(error).replace(str(plain), str(file))) from error

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
            ValueError: if the recording does not define it.
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
        self._stack.close()
        self._unpacked.clear()


def _open_file(file: Path, types: Any) -> StorageReader:
    """Open one storage file with `rosbags`, or without it where its index is missing.

    Raises:
        BagError: if nothing of it can be read.
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
                if sum(c.msgcount for c in reader.connections) == reader.message_count:
                    return reader
                reader.close()
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
