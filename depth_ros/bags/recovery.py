"""Read storage files without their index: what a crash or a full disk has left of a recording."""

from __future__ import annotations

import heapq
import os
import sqlite3
import struct
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

from lz4.frame import LZ4FrameDecompressor
from rosbags.interfaces import (
    Connection,
    ConnectionExtRosbag2,
    MessageDefinition,
    MessageDefinitionFormat,
    Qos,
)
from rosbags.rosbag2 import ReaderError
from rosbags.rosbag2.metadata import parse_qos

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_UNREADABLE = (struct.error, ValueError, RuntimeError, EOFError, ReaderError, zstd.ZstdError)

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
        remarks: What is unusual about it, but takes nothing away.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._found: dict[int, Connection] = {}
        self.faults: list[str] = []
        self.remarks: list[str] = []
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


def is_whole(file: Path) -> bool:
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


class McapScan(_Scan):
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
                if summary is None:
                    faults.append('was not closed: it has no index')
                elif not summary:
                    self.remarks = ['has no index (it is not damaged), so reading takes longer']

    def _records(self, stream: BinaryIO, size: int, faults: list[str]) -> Iterator[_Row]:
        """Yield the messages among a file's or a chunk's records.

        Raises:
            ValueError: if there is half a record, or none.
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


class Db3Scan(_Scan):
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
        elif not is_whole(self._file):
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
