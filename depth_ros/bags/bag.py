"""Recordings without ROS: write, read, find the topics, decode depth, labels and poses.

Built on the `rosbags` library; neither rclpy nor a ROS installation is needed. Written is rosbag2;
read are rosbag2 and ROS 1 bags, also what a crash or a full disk has left of them.
"""

from __future__ import annotations

import difflib
import heapq
import os
import re
import shutil
import sqlite3
import struct
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple
from zlib import crc32

import cv2
import numpy as np

from depth_ros.core.se3 import pose_from_list

try:
    from lz4.frame import LZ4FrameDecompressor
    from rosbags.convert.converter import is_same_wireformat, migrate_bytes
    from rosbags.interfaces import (
        Connection,
        ConnectionExtRosbag2,
        MessageDefinition,
        MessageDefinitionFormat,
        Qos,
        QosDurability,
        QosHistory,
        QosLiveliness,
        QosReliability,
        QosTime,
    )
    from rosbags.rosbag1 import Reader as Ros1Reader
    from rosbags.rosbag2 import (
        CompressionFormat,
        CompressionMode,
        Reader,
        ReaderError,
        StoragePlugin,
        Writer,
    )
    from rosbags.rosbag2.metadata import parse_qos
    from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore

    try:
        from compression import zstd
    except ImportError:  # before Python 3.14
        from backports import zstd
except ImportError as error:  # folders of images need none of them, and ROS 2 has none
    _MISSING: ImportError | None = error
else:
    _MISSING = None
    _UNREADABLE = (struct.error, ValueError, RuntimeError, EOFError, ReaderError, zstd.ZstdError)

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'
POINT_CLOUD = 'sensor_msgs/msg/PointCloud2'
ODOMETRY = 'nav_msgs/msg/Odometry'
POSE = 'geometry_msgs/msg/PoseStamped'
POSE_WITH_COVARIANCE = 'geometry_msgs/msg/PoseWithCovarianceStamped'
TF = 'tf2_msgs/msg/TFMessage'


class BagError(RuntimeError):
    """A recording cannot be used; the message names it, the cause and the remedy."""


def message_types() -> Any:
    """Return a fresh `rosbags` typestore with the message types of ROS 2 Jazzy.

    Kilted has the same definitions of every type that this package reads or writes.

    Raises:
        BagError: `rosbags` or `lz4` is not installed.
    """
    if _MISSING:
        raise BagError(
            f'recordings need Python packages that are not installed ({_MISSING}): pip '
            'install rosbags lz4'
        ) from _MISSING
    return get_typestore(Stores.ROS2_JAZZY)


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
        BagError: `path` exists and `overwrite` is false; or what writes recordings is not
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
        self._writer.write(connection, stamp_ns, message)

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


class Topic(NamedTuple):
    """One topic of a recording: type name, number of messages, whether it is latched."""

    msgtype: str
    count: int
    latched: bool


class Message(NamedTuple):
    """One recorded message: topic, type name, log time in nanoseconds, serialised CDR bytes."""

    topic: str
    msgtype: str
    log_ns: int
    data: bytes


class Bag:
    """A recording, opened for reading. Use as a context manager.

    A recording that was cut short or never closed is read up to where it can be read no further,
    and `damage` tells so.

    Args:
        path: A rosbag2 folder, with metadata.yaml or without; or one `.mcap`, `.db3` or ROS 1
            `.bag` file. ROS 1 messages come as the ROS 2 messages of their names.

    Attributes:
        path: As given.
        topics: The topics by name.
        start_ns, end_ns: Log times of the first and last message, nanoseconds.
        damage: What is wrong with the recording, how much could be read and how to mend it;
            None for a whole one.

    Raises:
        BagError: The path is missing, is no recording, or nothing of the recording can be read; or
            what reads recordings is not installed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._types = message_types()
        self._readers, faults = _open(self.path, self._types)
        self.topics: dict[str, Topic] = {}
        for connection in (c for reader in self._readers for c in reader.connections):
            _, count, latched = self.topics.get(connection.topic, Topic('', 0, False))
            self.topics[connection.topic] = Topic(
                connection.msgtype, count + connection.msgcount, latched or _is_latched(connection)
            )
        count = sum(reader.message_count for reader in self._readers)
        if not count:
            self.close()
            if faults:
                raise BagError(_damaged(self.path, '; '.join(faults)))
            raise BagError(f'recording {self.path} holds no messages: record it again')
        self.start_ns = min(reader.start_time for reader in self._readers)
        self.end_ns = max(reader.end_time for reader in self._readers) - 1
        self.damage: str | None = None
        if faults:
            seconds = (self.end_ns - self.start_ns) / 1e9
            self.damage = (
                f'{_damaged(self.path, "; ".join(faults))}; {count} messages over {seconds:.1f} s '
                'could be read'
            )

    def messages(self, topics: Collection[str] | None = None) -> Iterator[Message]:
        """Yield the messages of some topics (None: of all) in the order of their log times.

        In a file without an index, those within 16 MiB of each other are put in order.

        Raises:
            BagError: The recording is damaged.
        """
        streams = [_stream(reader, topics) for reader in self._readers]
        merged = heapq.merge(*streams, key=itemgetter(0))
        while True:
            try:
                _, message = next(merged)
            except StopIteration:
                return
            except Exception as error:  # rosbags, sqlite and zstd each have their own kinds
                raise BagError(_damaged(self.path, error)) from error
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
            BagError: Its type is unknown or its bytes are no such message.
        """
        try:
            if message.msgtype not in self._types.fielddefs:
                self._register(message.msgtype)
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

    def _register(self, msgtype: str) -> None:
        connections = (c for reader in self._readers for c in reader.connections)
        definition = next(
            (
                c.msgdef
                for c in connections
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
        for reader in self._readers:
            reader.close()

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def header_stamp(data: bytes) -> int:
    """Return the stamp, in nanoseconds, of a serialised message that begins with a header."""
    order = '<' if data[1] & 1 else '>'
    seconds, nanoseconds = struct.unpack_from(f'{order}iI', data, 4)
    return seconds * 10**9 + nanoseconds


# Opening what there is --------------------------------------------------------------------------


_ROS1 = ('.bag', '.active')  # the second as long as it is recorded, and after a crash


def _open(path: Path, types: Any) -> tuple[list[Any], list[str]]:
    """Open a recording.

    Args:
        path: As `Bag` takes it.
        types: The typestore that is to know the types of ROS 1 messages.

    Returns:
        Readers of its files, and what is wrong with them.

    Raises:
        BagError: None of it can be read.
    """
    files, faults = _storage(path), []
    if path.is_dir() and (path / 'metadata.yaml').is_file() and all(map(_is_whole, files)):
        reader = Reader(path)
        try:
            reader.open()
            return [reader], []
        except Exception as error:  # rosbags, sqlite and yaml each have their own kinds
            # What rosbags does not foresee, such as schemas of other encodings, a scan may read.
            if isinstance(error, ReaderError) or not files:
                faults.append(str(error))
    readers: list[Any] = []
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
        raise BagError(_damaged(path, '; '.join(faults)))
    return readers, faults


def _storage(path: Path) -> list[Path]:
    """Return the storage files of a recording; none if only its metadata.yaml knows them."""
    if not path.exists():
        raise BagError(f'recording {path} does not exist: check the path')
    if path.is_file():
        if path.suffix not in ('.mcap', '.db3', *_ROS1):
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


def _open_file(file: Path, types: Any) -> Any:
    """Open one storage file with `rosbags`, or without it where its index is missing.

    Raises:
        BagError: Nothing of it can be read.
    """
    if not file.stat().st_size:
        raise BagError(f'recording {file} is empty (0 bytes): record it again')
    try:
        if file.suffix in _ROS1:
            return _Ros1(file, types)
        if _is_whole(file):
            reader = Reader(file)
            with suppress(Exception):  # then it only looks whole
                reader.open()
                return reader
        return _McapScan(file) if file.suffix == '.mcap' else _Db3Scan(file)
    except Exception as error:  # rosbags, sqlite and yaml each have their own kinds
        raise BagError(_damaged(file, error)) from error


def _is_whole(file: Path) -> bool:
    """Tell whether a storage file has what `rosbags` needs to read all of it in order."""
    with file.open('rb') as stream:
        size = stream.seek(0, os.SEEK_END)
        if file.suffix == '.mcap':
            return _has_chunk_index(stream, size)
        stream.seek(0)
        head = stream.read(100).ljust(100, b'\0')
    # Size and number of its pages: https://sqlite.org/fileformat.html#the_database_header
    page, pages = int.from_bytes(head[16:18], 'big'), int.from_bytes(head[28:32], 'big')
    return size >= (65536 if page == 1 else page) * pages and not _has_log(file)


def _has_log(file: Path) -> bool:
    """Tell whether a crash has left a write-ahead log beside a sqlite file."""
    log = file.with_name(f'{file.name}-wal')
    return log.exists() and log.stat().st_size > 0


def _is_latched(connection: Connection) -> bool:
    if isinstance(connection.ext, ConnectionExtRosbag2):
        return any(
            qos.durability is QosDurability.TRANSIENT_LOCAL
            for qos in connection.ext.offered_qos_profiles
        )
    return bool(connection.ext.latching)


def _stream(reader: Any, topics: Collection[str] | None) -> Iterator[tuple[int, Message | None]]:
    """Yield the log times and messages of one reader.

    The first item has no message and only tells when they begin: so whoever merges several
    readers opens none before its time has come.
    """
    wanted = [c for c in reader.connections if topics is None or c.topic in topics]
    if not wanted:
        return
    yield reader.start_time, None
    for connection, log_ns, data in reader.messages(connections=wanted):
        # The recorder may have compressed each message: zstd's magic, while CDR begins with 0.
        data = zstd.decompress(data) if data[:4] == b'\x28\xb5\x2f\xfd' else bytes(data)
        yield log_ns, Message(connection.topic, connection.msgtype, log_ns, data)


def _damaged(path: Path, error: object) -> str:
    if path.suffix in _ROS1:
        remedy = f'mend it with `rosbag reindex {path}`'
    else:
        remedy = (
            'mend an .mcap file with `mcap recover FILE -o NEW`, a .db3 file with '
            '`sqlite3 FILE .recover | sqlite3 NEW`, then `ros2 bag reindex` its folder'
        )
    return f'recording {path} is damaged or was cut short ({error}): {remedy}'


class _Ros1:
    """A ROS 1 bag, read as if it were one of ROS 2. Has what `Bag` uses of a `rosbags` reader.

    Args:
        file: The bag.
        types: The typestore of ROS 2, which learns the types that it does not know.
    """

    _RENAMED = {'tf/msg/tfMessage': TF}

    def __init__(self, file: Path, types: Any) -> None:
        self._reader = Ros1Reader(file)
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


# Reading without an index -----------------------------------------------------------------------

_WINDOW = 16 << 20  # bytes of messages that wait for earlier ones
_Row = tuple[int, int, bytes]  # key of the connection, log time in nanoseconds, CDR bytes


class _Scan:
    """A storage file read from its beginning to where it can be read no further.

    Has what `Bag` uses of a `rosbags` reader. The file is read once to see what it holds and again
    by every call of `messages`; at most `_WINDOW` and one chunk of it are held at a time.

    Attributes:
        connections: The topics, with their numbers of messages.
        message_count: Number of messages.
        start_time, end_time: First log time and the one after the last, nanoseconds.
        faults: What is wrong with the file.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._found: dict[int, Connection] = {}
        self.faults: list[str] = []
        self.start_time, self.end_time = 2**63 - 1, 0
        counts: Counter[int] = Counter()
        for key, log_ns, _ in self._rows(self.faults):
            counts[key] += 1
            self.start_time = min(self.start_time, log_ns)
            self.end_time = max(self.end_time, log_ns + 1)
        self.connections = [c._replace(msgcount=counts[c.id]) for c in self._found.values()]
        self.message_count = sum(c.msgcount for c in self.connections)
        if lost := counts.total() - self.message_count:
            self.faults.append(f'has {lost} messages of topics that it does not name')

    def messages(
        self, connections: Collection[Connection]
    ) -> Iterator[tuple[Connection, int, bytes]]:
        """Yield connection, log time and data, in the order of log times within `_WINDOW`."""
        wanted = {c.id: c for c in connections}
        waiting: list[tuple[int, int, _Row]] = []
        held = 0
        for index, row in enumerate(self._rows([])):
            key, log_ns, data = row
            if key not in wanted:
                continue
            heapq.heappush(waiting, (log_ns, index, row))
            held += len(data)
            while held > _WINDOW:
                key, log_ns, data = heapq.heappop(waiting)[2]
                held -= len(data)
                yield wanted[key], log_ns, data
        for _, _, (key, log_ns, data) in sorted(waiting):
            yield wanted[key], log_ns, data

    def _rows(self, faults: list[str]) -> Iterator[_Row]:
        """Yield the messages as they lie; note what is wrong, and the connections in `_found`."""
        raise NotImplementedError

    def _add(self, key: int, topic: str, msgtype: str, encoding: str, text: str, qos: str) -> None:
        """Note a connection, with its type's definition and its QoS profiles in YAML."""
        kind = {
            'ros2msg': MessageDefinitionFormat.MSG,
            'ros2idl': MessageDefinitionFormat.IDL,
            'omgidl': MessageDefinitionFormat.IDL,
        }.get(encoding, MessageDefinitionFormat.NONE)
        profiles: list[Qos] = []
        with suppress(Exception):  # they only tell what is latched
            profiles = parse_qos(qos)
        extras = ConnectionExtRosbag2('cdr', profiles)
        self._found[key] = Connection(
            key, topic, msgtype, MessageDefinition(kind, text), '', 0, extras, self
        )

    def close(self) -> None:
        """Nothing stays open between the calls."""


# The mcap format: https://mcap.dev/spec
_MAGIC = b'\x89MCAP0\r\n'
_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _CHUNK_INDEX = 2, 3, 4, 5, 6, 8
_RECORD = struct.Struct('<BQ')  # kind and length
_TAIL = 37  # bytes of the footer and the magic behind it
_LARGEST = 1 << 28  # bytes: a record that claims more is garbled


def _summary(stream: BinaryIO, size: int) -> int | None:
    """Return where an mcap file's summary begins; 0 if it has none, None if it was not closed."""
    if size < len(_MAGIC) + _TAIL:
        return None
    stream.seek(size - _TAIL)
    footer = stream.read(_TAIL)
    if footer[:9] != _RECORD.pack(_FOOTER, 20) or footer[29:] != _MAGIC:
        return None
    return int.from_bytes(footer[9:17], 'little')


def _has_chunk_index(stream: BinaryIO, size: int) -> bool:
    at = _summary(stream, size)
    while at and at < size - _TAIL:
        stream.seek(at)
        kind, length = _RECORD.unpack(stream.read(9))
        if kind == _CHUNK_INDEX:
            return True
        at += 9 + length
    return False


def _text(data: bytes, at: int) -> tuple[str, int]:
    """Return the mcap string at an offset and the offset behind it."""
    end = at + 4 + int.from_bytes(data[at : at + 4], 'little')
    return data[at + 4 : end].decode(), end


def _unpack(compression: str, data: bytes) -> bytes:
    """Return a chunk's records, or as many of them as there are in the beginning of a chunk."""
    if compression == 'zstd':
        return bytes(zstd.ZstdDecompressor().decompress(data, _LARGEST))
    if compression == 'lz4':
        return bytes(LZ4FrameDecompressor().decompress(data, _LARGEST))
    if compression:
        raise ValueError(f'its compression {compression!r} is not supported')
    return data


class _McapScan(_Scan):
    """An mcap file without an index, or cut short."""

    def __init__(self, file: Path) -> None:
        self._schemas: dict[int, tuple[str, str, str]] = {}
        super().__init__(file)

    def _rows(self, faults: list[str]) -> Iterator[_Row]:
        with self._file.open('rb') as stream:
            size = stream.seek(0, os.SEEK_END)
            summary = _summary(stream, size)
            stream.seek(0)
            if stream.read(len(_MAGIC)) != _MAGIC:
                raise ValueError('it does not begin like an mcap file')
            try:
                yield from self._records(stream, size, faults)
            except _UNREADABLE as error:
                faults.append(str(error))
            else:
                if not summary:
                    faults.append('has no index')

    def _records(self, stream: BinaryIO, size: int, faults: list[str]) -> Iterator[_Row]:
        """Yield the messages among a file's or a chunk's records.

        Raises:
            ValueError: There is half a record, or none.
        """
        while (start := stream.tell()) < size:
            head = stream.read(_RECORD.size)
            kind, length = _RECORD.unpack(head) if len(head) == _RECORD.size else (0, 0)
            if kind == _FOOTER:
                return
            cut = length > size - stream.tell()
            if not kind or length > _LARGEST or (cut and kind != _CHUNK):
                raise ValueError(f'ends within a record, or is garbled, from byte {start} on')
            if kind not in (_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK):
                stream.seek(length, os.SEEK_CUR)
                continue
            data = stream.read(length)
            if kind == _MESSAGE:
                key, _, log_ns, _ = struct.unpack_from('<HIQQ', data)
                yield key, log_ns, data[22:]
            elif kind == _SCHEMA:
                self._schema(data)
            elif kind == _CHANNEL:
                self._channel(data)
            else:
                try:
                    yield from self._chunk(data, cut, faults)
                except _UNREADABLE as error:
                    if not cut:
                        faults.append(f'has a damaged chunk at byte {start} ({error})')
                if cut:
                    raise ValueError(f'ends within the chunk from byte {start} on')

    def _chunk(self, data: bytes, cut: bool, faults: list[str]) -> Iterator[_Row]:
        (crc,) = struct.unpack_from('<I', data, 24)
        compression, at = _text(data, 28)
        records = _unpack(compression, data[at + 8 :])
        if crc and not cut and crc32(records) != crc:
            raise ValueError('its checksum is another')
        yield from self._records(BytesIO(records), len(records), faults)

    def _schema(self, data: bytes) -> None:
        name, at = _text(data, 2)
        encoding, at = _text(data, at)
        text, _ = _text(data, at)
        self._schemas[int.from_bytes(data[:2], 'little')] = (name, encoding, text)

    def _channel(self, data: bytes) -> None:
        key, schema = struct.unpack_from('<HH', data)
        if key in self._found:
            return
        topic, at = _text(data, 4)
        _, at = _text(data, at)  # how messages are encoded: what is not CDR cannot be decoded
        at += 4
        texts = []
        while at < len(data):
            text, at = _text(data, at)
            texts.append(text)
        extras = dict(zip(texts[::2], texts[1::2], strict=False))
        msgtype, encoding, text = self._schemas.get(schema, ('', '', ''))
        self._add(key, topic, msgtype, encoding, text, extras.get('offered_qos_profiles', ''))


class _Db3Scan(_Scan):
    """A sqlite file cut short, or beside the write-ahead log of a recorder that crashed."""

    def _rows(self, faults: list[str]) -> Iterator[_Row]:
        logged = _has_log(self._file)
        readable = logged and os.access(self._file.parent, os.W_OK)
        if readable:
            faults.append('was not closed: its last messages are in its -wal file')
        elif logged:
            faults.append(
                'was not closed, and its last messages are in a -wal file that sqlite '
                'reads only in a folder that can be written: copy the recording'
            )
        elif not _is_whole(self._file):
            faults.append('is shorter than it says itself')
        mode = 'mode=ro' if readable else 'immutable=1'
        # sqlite makes this file beside a log that it reads, and leaves it there.
        shared = self._file.with_name(f'{self._file.name}-shm')
        made = readable and not shared.exists()
        database = sqlite3.connect(
            f'{self._file.resolve().as_uri()}?{mode}', uri=True, check_same_thread=False
        )
        try:
            # Without this, sqlite refuses a file that is shorter than it says itself.
            database.execute('PRAGMA writable_schema = ON')
            self._topics(database)
            yield from self._messages(database, faults)
        finally:
            database.close()
            if made:
                shared.unlink(missing_ok=True)

    def _topics(self, database: sqlite3.Connection) -> None:
        definitions = {}
        with suppress(sqlite3.OperationalError):  # ROS 2 before Iron wrote none
            for msgtype, *definition in database.execute(
                'SELECT topic_type, encoding, encoded_message_definition FROM message_definitions'
            ):
                definitions[msgtype] = definition
        cursor = database.execute('SELECT * FROM topics')
        names = [column[0] for column in cursor.description]
        for row in cursor:
            topic = dict(zip(names, row, strict=True))
            encoding, text = definitions.get(topic['type'], ('', ''))
            self._add(
                topic['id'],
                topic['name'],
                topic['type'],
                encoding,
                text,
                topic.get('offered_qos_profiles', ''),
            )

    def _messages(self, database: sqlite3.Connection, faults: list[str]) -> Iterator[_Row]:
        try:
            yield from database.execute(
                'SELECT topic_id, timestamp, data FROM messages ORDER BY id'
            )
        except sqlite3.DatabaseError as error:
            faults.append(f'cannot be read to its end ({error})')


# Which topic is what ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Streams:
    """The topics of a recording that matter, by what they carry; None where there is none.

    Attributes:
        image: The camera's pictures, Image or CompressedImage.
        camera_info: Its CameraInfo.
        depth: True depth: Image 32FC1 (m) or 16UC1 (mm), CompressedImage compressedDepth, or a
            lidar's PointCloud2, which is only taken when it is named.
        labels: True class ids (Cityscapes trainIds): Image mono8, or CompressedImage png.
        odom: True poses: Odometry, PoseStamped or PoseWithCovarianceStamped, see `decode_pose`.
    """

    image: str
    camera_info: str
    depth: str | None = None
    labels: str | None = None
    odom: str | None = None


_NO_PICTURE = re.compile(
    r'depth|dispar|label|semant|segment|mask|instance|infra|thermal|confidence|flow|ground_?truth'
)
_TRUTH = re.compile(r'ground_?truth|(^|[/_])gt([/_]|$)')
_TRUTH_TYPES = {
    'depth-gt': (IMAGE, COMPRESSED_IMAGE, POINT_CLOUD),
    'semantics-gt': (IMAGE, COMPRESSED_IMAGE),
    'odom-gt': (ODOMETRY, POSE, POSE_WITH_COVARIANCE),
}
_PLANNED = ('/camera/image_rect', '/camera/image_rect/compressed')
_COLOR = ('rgb', 'bgr', 'bayer', 'yuv', 'uyvy', 'yuyv', 'nv', '8UC3', '8UC4', 'jpeg', 'jpg', 'png')


def find_streams(
    bag: Bag,
    image: str | None = None,
    camera_info: str | None = None,
    depth: str | None = None,
    labels: str | None = None,
    odom: str | None = None,
) -> Streams:
    """Find the topics of a recording by type and name; a name given as argument wins.

    Pictures: colour wins over grey, and topics whose names speak of depth, labels and the like
    are left out. Ground truth is only what calls itself so (`ground_truth`, `gt`); of poses,
    Odometry wins over the other types.

    Raises:
        BagError: No topic or more than one fits; the message lists what there is.
    """
    firsts = (
        (name, bag.first(name))
        for name, topic in bag.topics.items()
        if topic.msgtype in (IMAGE, COMPRESSED_IMAGE) and topic.count
    )
    encodings = {name: _encoding(first) for name, first in firsts if first is not None}

    image = _given(bag, image, 'image', (IMAGE, COMPRESSED_IMAGE)) or _find_image(bag, encodings)
    camera_info = _given(bag, camera_info, 'camera_info', (CAMERA_INFO,)) or _find_info(bag, image)

    def truth(option: str, given: str | None, fits: Callable[[str], bool]) -> str | None:
        if given is not None:
            return _given(bag, given, option, _TRUTH_TYPES[option])
        found = sorted(n for n in bag.topics if _TRUTH.search(n) and bag.topics[n].count)
        return _one(bag, [n for n in found if fits(n)], option, may_lack=True)

    def is_labels(name: str) -> bool:
        named = re.search('label|semant|segment', name) is not None
        return named and encodings.get(name) in ('mono8', '8UC1', 'png')

    return Streams(
        image,
        camera_info,
        truth('depth-gt', depth, lambda n: encodings.get(n) in ('32FC1', '16UC1')),
        truth('semantics-gt', labels, is_labels),
        truth('odom-gt', odom, lambda n: bag.topics[n].msgtype == ODOMETRY)
        or truth('odom-gt', None, lambda n: bag.topics[n].msgtype in _TRUTH_TYPES['odom-gt']),
    )


def _encoding(message: Any) -> str:
    """Return an Image's encoding; for a CompressedImage that of its depth, or jpeg or png."""
    if hasattr(message, 'encoding'):
        return str(message.encoding)
    if 'compressedDepth' in message.format:
        return str(message.format.partition(';')[0].strip())
    return 'png' if bytes(message.data[:4]) == b'\x89PNG' else 'jpeg'


def _find_image(bag: Bag, encodings: dict[str, str]) -> str:
    pictures = [
        name
        for name, encoding in encodings.items()
        if not _NO_PICTURE.search(name.lower()) and encoding not in ('32FC1', '16UC1')
    ]
    # A topic and its compressed twin are one camera; the raw one needs no decoding.
    pictures = [
        n
        for n in pictures
        if not (n.endswith('/compressed') and n.removesuffix('/compressed') in pictures)
    ]
    for name in _PLANNED:
        if name in pictures:
            return name
    colored = [n for n in pictures if encodings[n].startswith(_COLOR)]
    return str(_one(bag, sorted(colored or pictures), 'image'))


def _find_info(bag: Bag, image: str) -> str:
    infos = {n for n, t in bag.topics.items() if t.msgtype == CAMERA_INFO and t.count}
    sibling = f'{image.removesuffix("/compressed").rpartition("/")[0]}/camera_info'
    if sibling in infos:
        return sibling
    pictures = sorted(n for n in infos if not _NO_PICTURE.search(n.lower()))
    return str(_one(bag, pictures, 'camera-info'))


def _given(bag: Bag, name: str | None, option: str, types: tuple[str, ...]) -> str | None:
    if name is None:
        return None
    if name not in bag.topics:
        fitting = [n for n, topic in bag.topics.items() if topic.msgtype in types and topic.count]
        likely = difflib.get_close_matches(name, fitting, n=1, cutoff=0)
        hint = f'did you mean {likely[0]}? ' if likely else ''
        raise BagError(f'recording {bag.path} has no topic {name}; {hint}{_listing(bag)}')
    if bag.topics[name].msgtype not in types:
        raise BagError(
            f'recording {bag.path}: {name} is a {bag.topics[name].msgtype}, but the {option} topic '
            f'must be a {" or ".join(types)}; {_listing(bag)}'
        )
    if not bag.topics[name].count:
        raise BagError(f'recording {bag.path}: {name} has no messages; {_listing(bag)}')
    return name


def _one(bag: Bag, found: list[str], option: str, may_lack: bool = False) -> str | None:
    if len(found) == 1:
        return found[0]
    if not found and may_lack:
        return None
    what = {'image': 'camera image', 'camera-info': 'camera_info'}.get(option, option)
    if found:
        raise BagError(
            f'recording {bag.path} has several {what} topics: {", ".join(found)}: choose one '
            f'with --{option}'
        )
    raise BagError(
        f'recording {bag.path} has no {what} topic; {_listing(bag)}: name one with '
        f'--{option}, or record it too'
    )


def _listing(bag: Bag) -> str:
    rows = (f'{n} ({t.msgtype}, {t.count})' for n, t in sorted(bag.topics.items()))
    return f'it has {", ".join(rows)}'


# Depth, labels and poses ------------------------------------------------------------------------


def decode_depth(message: Any) -> np.ndarray:
    """Return a depth Image or compressedDepth CompressedImage as float32 (H, W).

    Metres along the optical axis, NaN = invalid (REP 118).

    Raises:
        ValueError: The encoding is not supported or the data is damaged.
    """
    encoding = _encoding(message)
    if encoding not in ('32FC1', '16UC1'):
        raise ValueError(f'depth encoding {encoding!r} is not supported: use 32FC1 or 16UC1')
    if not hasattr(message, 'format'):
        depth = _pixels(message, np.float32 if encoding == '32FC1' else np.uint16)
    else:
        # 12 bytes: format enumeration, then the two quantisation parameters; then the png.
        depth = _imdecode(message.data[12:])
        if depth.dtype != np.uint16 or depth.ndim != 2:
            raise ValueError(
                f'compressed depth is {depth.dtype} {depth.shape} pixels, not uint16 '
                '(H, W): publish compressedDepth'
            )
        scale, offset = struct.unpack_from('<ff', message.data, 4)
        if encoding == '32FC1':
            coded = depth.astype(np.float32)
            with np.errstate(divide='ignore'):
                return np.where(coded > 0, scale / (coded - offset), np.nan).astype(np.float32)
    if encoding == '16UC1':
        return np.where(depth > 0, depth * np.float32(1e-3), np.float32(np.nan))
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.nan).astype(np.float32)


def decode_labels(message: Any) -> np.ndarray:
    """Return a mono8 Image or png CompressedImage of class ids as uint8 (H, W).

    Raises:
        ValueError: The encoding is not supported or the data is damaged.
    """
    if hasattr(message, 'format'):
        labels = _imdecode(message.data)
        if labels.dtype != np.uint8 or labels.ndim != 2:
            raise ValueError(f'labels are {labels.dtype} {labels.shape} pixels: publish mono8')
        return labels
    if message.encoding not in ('mono8', '8UC1'):
        raise ValueError(f'labels encoding {message.encoding!r} is not supported: publish mono8')
    return _pixels(message, np.uint8)


def decode_pose(message: Any) -> np.ndarray:
    """Return the pose of an Odometry, PoseStamped or PoseWithCovarianceStamped as float64 (4, 4).

    T_parent_child in metres, the parent being the header's frame.

    Raises:
        ValueError: A number is not finite or the quaternion has no direction.
    """
    pose = getattr(message.pose, 'pose', message.pose)  # some wrap it together with a covariance
    place, turn = pose.position, pose.orientation
    return pose_from_list((place.x, place.y, place.z, turn.x, turn.y, turn.z, turn.w))


def _imdecode(data: np.ndarray) -> np.ndarray:
    data = np.asarray(data, np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if image is None:
        raise ValueError(f'compressed image of {data.size} bytes cannot be decoded as png')
    return image


def _pixels(message: Any, dtype: type[np.generic]) -> np.ndarray:
    """Return the pixels (H, W) of a one-channel Image, whatever its step and byte order."""
    kind = np.dtype(dtype).newbyteorder('>' if message.is_bigendian else '<')
    height, width, step = message.height, message.width, message.step
    if not height or not width or step < width * kind.itemsize or len(message.data) < step * height:
        raise ValueError(
            f'image of {width}x{height} {message.encoding} with step {step} has '
            f'{len(message.data)} bytes: check what publishes it'
        )
    return np.ndarray((height, width), kind, message.data, strides=(step, kind.itemsize))
