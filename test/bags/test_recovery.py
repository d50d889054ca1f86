"""Recordings that were cut short or never closed are read up to where they can be read."""

import shutil
import sqlite3
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import lz4.frame
import pytest
from support.bag_files import COUNT, NOISE, check_beginning, cut, record, write
from support.bag_messages import (
    camera_info,
    image,
)

from depth_ros.bags.messages import (
    CAMERA_INFO,
    IMAGE,
    BagError,
    header_stamp,
    message_types,
)
from depth_ros.bags.reader import Bag
from depth_ros.bags.writer import BagWriter


def records(data: bytes) -> list[tuple[int, bytes]]:
    """Kinds and contents of mcap records."""
    found, at = [], 0
    while at < len(data):
        kind, length = struct.unpack_from('<BQ', data, at)
        found.append((kind, data[at + 9 : at + 9 + length]))
        at += 9 + length
    return found


def rewrite(file: Path, change: Callable[[int, bytes], bytes | None]) -> None:
    """Rewrite an mcap file record by record, up to the footer, which tells of no summary.

    `change` gets kind and content and returns what is to be written, None for the record itself.
    """
    data = file.read_bytes()
    written = [data[:8]]
    for kind, content in records(data[8:-8]):
        if kind in (0x0F, 0x02):  # the end of the data
            break
        new = change(kind, content)
        written.append(struct.pack('<BQ', kind, len(content)) + content if new is None else new)
    file.write_bytes(b''.join([*written, struct.pack('<BQ20x', 2, 20), data[:8]]))


def chunk(content: bytes, compression: bytes, pack: Callable[[bytes], bytes]) -> bytes:
    """An uncompressed chunk's content as another chunk, with a checksum."""
    data = content[40:]
    packed = pack(data)
    body = (
        content[:24]
        + struct.pack('<II', zlib.crc32(data), len(compression))
        + compression
        + struct.pack('<Q', len(packed))
        + packed
    )
    return struct.pack('<BQ', 6, len(body)) + body


@pytest.mark.parametrize('compression', ['', 'zstd', 'lz4'])
@pytest.mark.parametrize('metadata', [True, False])
def test_mcap_cut_anywhere_is_read_up_to_there(tmp_path, compression, metadata):
    file = record(tmp_path / 'b', compress=compression == 'zstd')
    if compression == 'lz4':
        rewrite(file, lambda kind, c: chunk(c, b'lz4', lz4.frame.compress) if kind == 6 else None)
    if not metadata:
        (tmp_path / 'b' / 'metadata.yaml').unlink()
    size = file.stat().st_size
    counts = []
    for part in (0.9999, 0.97, 0.8, 0.5, 0.3):
        cut(file, int(part * size))
        with Bag(tmp_path / 'b') as bag:
            counts.append(check_beginning(bag))
            assert f'{counts[-1]} messages over 0.0 s could be read' in bag.damage
            assert 'b.mcap ends within' in bag.damage and 'mcap recover' in bag.damage
    assert counts[0] == 2 * COUNT and counts == sorted(counts, reverse=True)
    # All that is there, but for what a compressor still held back of the last chunk's end.
    assert counts[3] >= COUNT - (1 if compression == '' else 8)
    cut(file, 60)
    with pytest.raises(BagError, match='b.mcap ends within'):
        Bag(tmp_path / 'b')


def test_mcap_cut_within_every_kind_of_record(tmp_path):
    file = write(tmp_path / 'b', {'/c': camera_info()}) / 'b.mcap'
    message = bytes(message_types().serialize_cdr(camera_info(), CAMERA_INFO))
    end = file.read_bytes().index(message) + len(message)
    for size in range(file.stat().st_size - 1, 0, -11):
        cut(file, size)
        if size >= end:
            with Bag(file) as bag:
                assert bag.damage and [m.log_ns for m in bag.messages()] == [10**9]
        else:
            with pytest.raises(BagError, match='is damaged or was cut short'):
                Bag(file)


def test_zeros_behind_the_end_as_after_a_power_failure(tmp_path):
    file = record(tmp_path / 'b')
    rewrite(file, lambda kind, c: chunk(c, b'', bytes) if kind == 6 else None)
    cut(file, file.stat().st_size // 2)
    cut(file, 2 * file.stat().st_size)
    with Bag(file) as bag:
        assert check_beginning(bag) > 30 and 'damaged chunk' in bag.damage


def test_mcap_without_an_index(tmp_path):
    file = record(tmp_path / 'b')
    rewrite(file, lambda kind, content: None)
    with Bag(file) as bag:
        assert check_beginning(bag) == 2 * COUNT and bag.damage is None
        assert 'b.mcap has no index (it is not damaged)' in bag.remarks[0]
    cut(file, file.stat().st_size - 37)  # the end itself is missing
    with Bag(file) as bag:
        assert check_beginning(bag) == 2 * COUNT and 'was not closed' in bag.damage


def test_mcap_without_chunks_and_out_of_order(tmp_path):
    # As the recorder's preset `fastwrite` makes it: in the order of arrival.
    file = tmp_path / 'b' / 'b.mcap'
    with BagWriter(tmp_path / 'b') as writer:
        for log_ns in (3, 1, 2, 7, 5):
            writer.write('/c', CAMERA_INFO, log_ns, camera_info(log_ns))
    rewrite(file, lambda kind, content: content[40:] if kind == 6 else b'' if kind == 7 else None)
    with Bag(file) as bag:
        assert [m.log_ns for m in bag.messages()] == [1, 2, 3, 5, 7]
        assert (bag.start_ns, bag.end_ns) == (1, 7)
        assert [header_stamp(m.data) for m in bag.messages(['/c'])] == [1, 2, 3, 5, 7]


def test_a_damaged_chunk_is_left_out(tmp_path):
    file = record(tmp_path / 'b')
    rewrite(file, lambda kind, c: chunk(c, b'', bytes) if kind == 6 else None)
    data = bytearray(file.read_bytes())
    data[data.index(NOISE.tobytes(), 2_000_000) + 100] ^= 0xFF
    file.write_bytes(data)
    with Bag(file) as bag:
        log_ns = [m.log_ns for m in bag.messages()]
        assert 'has a damaged chunk at byte' in bag.damage
        assert log_ns == sorted(log_ns) and log_ns[0] == 0 and log_ns[-1] == 4 * COUNT - 2
        assert COUNT < len(log_ns) < 2 * COUNT


def test_an_mcap_without_its_index_is_not_held_in_memory(tmp_path):
    file = record(tmp_path / 'b', count=400)
    cut(file, file.stat().st_size - 100)
    assert file.stat().st_size > 50e6
    tracemalloc.start()
    try:
        with Bag(file) as bag:
            assert sum(1 for _ in bag.messages()) == 800
        assert tracemalloc.get_traced_memory()[1] < 30e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize('part, least', [(0.99, 70), (0.5, 34), (0.1, 4)])
def test_sqlite_cut_short(tmp_path, part, least):
    file = record(tmp_path / 'b', 'sqlite3')
    cut(file, int(part * file.stat().st_size))
    with Bag(tmp_path / 'b') as bag:
        assert check_beginning(bag) >= least
        assert 'b.db3 is shorter than it says' in bag.damage and '.recover' in bag.damage
    cut(file, 5000)
    with pytest.raises(BagError, match=r'damaged or was cut short.*recover'):
        Bag(tmp_path / 'b')


@pytest.mark.parametrize('metadata', [True, False])
def test_sqlite_with_the_log_of_a_crash(tmp_path, metadata):
    file = record(tmp_path / 'b', 'sqlite3')
    if not metadata:
        (tmp_path / 'b' / 'metadata.yaml').unlink()
    raw = bytes(message_types().serialize_cdr(image(NOISE, 'rgb8', COUNT), IMAGE))
    shutil.copytree(tmp_path / 'b', tmp_path / 'live')
    recorder = sqlite3.connect(tmp_path / 'live' / 'b.db3')
    recorder.execute('PRAGMA journal_mode = WAL')
    recorder.execute(
        'INSERT INTO messages (topic_id, timestamp, data) VALUES (1, ?, ?)', (4 * COUNT, raw)
    )
    recorder.commit()
    for suffix in ('', '-wal'):  # what is on the disk when the recorder dies now
        shutil.copy(tmp_path / 'live' / f'b.db3{suffix}', f'{file}{suffix}')
    recorder.close()
    before = sorted(p.name for p in file.parent.iterdir())
    with Bag(tmp_path / 'b') as bag:
        assert check_beginning(bag) == 2 * COUNT + 1
        assert 'b.db3 was not closed' in bag.damage
    assert sorted(p.name for p in file.parent.iterdir()) == before
