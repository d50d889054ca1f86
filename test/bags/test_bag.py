"""Recordings: what is written can be read, as can ROS 1 bags and what crashes leave; what is wrong
is named, topics are found, depth, labels and poses come back exactly."""

import shutil
import sqlite3
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import lz4.frame
import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from support.bag_messages import (
    DEPTH,
    HEIGHT,
    LABELS,
    RGB,
    TYPES,
    WIDTH,
    camera_info,
    compressed,
    header,
    image,
    odometry,
    stamped,
)

from depth_ros.bags.messages import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    IMAGE,
    ODOMETRY,
    POINT_CLOUD,
    POSE,
    POSE_WITH_COVARIANCE,
    TF,
    BagError,
    decode_depth,
    decode_labels,
    decode_pose,
    header_stamp,
    message_types,
)
from depth_ros.bags.reader import Bag
from depth_ros.bags.topics import Streams, find_streams
from depth_ros.bags.writer import BagWriter


def write(path: Path, topics: dict, storage: str = 'mcap', **options) -> Path:
    """Write one message of each topic; the type follows from the message."""
    with BagWriter(path, storage, **options) as writer:
        for index, (topic, message) in enumerate(topics.items()):
            writer.write(topic, message.__msgtype__, 10**9 + index, message)
    return path


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A recording with one picture and its camera_info."""
    return write(
        tmp_path / 'plain', {'/cam/image': image(RGB, 'rgb8'), '/cam/camera_info': camera_info()}
    )


# Writing and reading


@pytest.mark.parametrize('storage, compress', [('mcap', False), ('mcap', True), ('sqlite3', False)])
def test_written_messages_are_read_back_bit_for_bit(tmp_path, storage, compress):
    types = message_types()
    raw = bytes(types.serialize_cdr(image(RGB, 'rgb8', 1_500_000_007), IMAGE))
    with BagWriter(tmp_path / 'b', storage, compress=compress) as writer:
        writer.write('/b', IMAGE, 20, raw)
        writer.write('/a', CAMERA_INFO, 30, camera_info(5))
        writer.write('/b', IMAGE, 40, raw)
    with Bag(tmp_path / 'b') as bag:
        assert bag.topics == {'/b': (IMAGE, 2, False), '/a': (CAMERA_INFO, 1, False)}
        assert (bag.start_ns, bag.end_ns) == (20, 40)
        messages = list(bag.messages())
        assert [(m.topic, m.log_ns) for m in messages] == [('/b', 20), ('/a', 30), ('/b', 40)]
        assert messages[0].data == raw
        assert header_stamp(raw) == 1_500_000_007
        assert [m.log_ns for m in bag.messages(['/a'])] == [30]
        assert bag.decode(messages[1]).k[0] == 5.0
        assert bag.first('/b').width == WIDTH
        assert bag.has_header(IMAGE) and not bag.has_header(TF)


def test_static_transforms_are_marked_as_latched(tmp_path):
    tf = TYPES[TF]([])
    with Bag(write(tmp_path / 'b', {'/tf': tf, '/tf_static': tf})) as bag:
        assert bag.topics['/tf_static'].latched and not bag.topics['/tf'].latched


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), BagWriter(tmp_path / 'b') as writer:
        writer.write('/cam/image', IMAGE, 1, image(RGB, 'rgb8'))
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_an_old_recording_is_kept_until_the_new_one_is_complete(plain):
    with pytest.raises(BagError, match='exists already'):
        BagWriter(plain)
    with pytest.raises(ZeroDivisionError), BagWriter(plain, overwrite=True):
        raise ZeroDivisionError
    with Bag(plain) as bag:
        assert '/cam/image' in bag.topics
    write(plain, {'/other': camera_info()}, overwrite=True)
    with Bag(plain) as bag:
        assert list(bag.topics) == ['/other']
    assert [p.name for p in plain.parent.iterdir()] == ['plain']


@pytest.mark.parametrize('storage, suffix', [('mcap', '.mcap'), ('sqlite3', '.db3')])
def test_opens_without_metadata(tmp_path, storage, suffix):
    path = write(tmp_path / 'b', {'/cam/image': image(RGB, 'rgb8')}, storage)
    (path / 'metadata.yaml').unlink()
    for what in (path, path / f'b{suffix}'):
        with Bag(what) as bag:
            assert bag.topics['/cam/image'].count == 1
            assert bag.first('/cam/image').data.tobytes() == RGB.tobytes()


# Recordings that cannot be used


def test_missing_path(tmp_path):
    with pytest.raises(BagError, match='nowhere does not exist'):
        Bag(tmp_path / 'nowhere')


def test_folder_without_recording(tmp_path):
    with pytest.raises(BagError, match='no metadata.yaml, .mcap or .db3'):
        Bag(tmp_path)


def test_foreign_file(tmp_path):
    (tmp_path / 'x.txt').touch()
    with pytest.raises(BagError, match='no rosbag2 recording'):
        Bag(tmp_path / 'x.txt')
    for name in ('x.mcap', 'x.db3', 'x.bag'):
        (tmp_path / name).write_text('No recording at all. ' * 100)
        with pytest.raises(BagError, match=rf'{name} is damaged or was cut short'):
            Bag(tmp_path / name)


@pytest.mark.parametrize('name', ['x.mcap', 'x.db3', 'x.bag'])
def test_empty_file(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(BagError, match=rf'{name} is empty \(0 bytes\): record it again'):
        Bag(tmp_path / name)


def test_two_kinds_of_files_without_metadata(plain):
    (plain / 'metadata.yaml').unlink()
    (plain / 'second.db3').touch()
    with pytest.raises(BagError, match='give one of them'):
        Bag(plain)


def test_broken_metadata_is_told_and_not_needed(plain):
    (plain / 'metadata.yaml').write_text('rosbag2_bagfile_information: [')
    with Bag(plain) as bag:
        assert 'Could not load YAML' in bag.damage and 'ros2 bag reindex' in bag.damage
        assert bag.first('/cam/image').data.tobytes() == RGB.tobytes()
    (plain / 'plain.mcap').unlink()
    with pytest.raises(BagError, match='Could not load YAML'):
        Bag(plain)


def test_a_missing_part_of_a_recording(tmp_path):
    path = write(tmp_path / 'b', {'/cam/image': image(RGB, 'rgb8')})
    metadata = path / 'metadata.yaml'
    metadata.write_text(metadata.read_text().replace('- b.mcap', '- b.mcap\n  - lost.mcap', 1))
    with Bag(path) as bag:
        assert 'lost.mcap' in bag.damage and bag.topics['/cam/image'].count == 1


def test_empty_recording(tmp_path):
    with BagWriter(tmp_path / 'b'):
        pass
    with pytest.raises(BagError, match='no messages'):
        Bag(tmp_path / 'b')


def test_message_of_garbage(tmp_path):
    with BagWriter(tmp_path / 'b') as writer:
        writer.write('/cam/image', IMAGE, 1, b'\x00\x01\x00\x00abc')
    with Bag(tmp_path / 'b') as bag, pytest.raises(BagError, match='/cam/image at 1 ns'):
        bag.first('/cam/image')


# Recordings that were cut short or never closed

COUNT = 40
NOISE = np.random.default_rng(1).integers(0, 256, (180, 240, 3), np.uint8)  # does not compress


def record(path: Path, storage: str = 'mcap', count: int = COUNT, **options) -> Path:
    """Write pictures /i and their infos /c by turns, 2 ns apart; return the storage file."""
    with BagWriter(path, storage, **options) as writer:
        for i in range(count):
            writer.write('/i', IMAGE, 4 * i, image(NOISE, 'rgb8', i))
            writer.write('/c', CAMERA_INFO, 4 * i + 2, camera_info(i))
    return next(p for p in path.iterdir() if p.suffix in ('.mcap', '.db3'))


def cut(file: Path, size: int) -> None:
    with file.open('r+b') as stream:
        stream.truncate(size)


def check_beginning(bag: Bag) -> int:
    """Check that a bag of `record` has its first messages, whole and in order; return how many."""
    messages = list(bag.messages())
    for i, message in enumerate(messages):
        assert (message.topic, message.log_ns) == (('/i', '/c')[i % 2], 2 * i)
        assert header_stamp(message.data) == i // 2
        decoded = bag.decode(message)
        assert message.topic == '/c' or decoded.data.tobytes() == NOISE.tobytes()
    assert sum(topic.count for topic in bag.topics.values()) == len(messages)
    assert (bag.start_ns, bag.end_ns) == (0, 2 * len(messages) - 2)
    return len(messages)


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
        assert check_beginning(bag) == 2 * COUNT and 'has no index' in bag.damage


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


@pytest.mark.parametrize('storage, suffix', [('mcap', '.mcap'), ('sqlite3', '.db3')])
def test_split_recording_without_metadata(tmp_path, storage, suffix):
    folder = tmp_path / 'crashed'
    folder.mkdir()
    for part in range(3):
        with BagWriter(tmp_path / 'part', storage, overwrite=True) as writer:
            for i in range(part * 20, part * 20 + 20):
                topic = '/i' if i % 2 == 0 else '/c'
                message = image(NOISE, 'rgb8', i // 2) if i % 2 == 0 else camera_info(i // 2)
                writer.write(topic, message.__msgtype__, 2 * i, message)
        # By name, the third part would come before the second.
        shutil.copy(tmp_path / 'part' / f'part{suffix}', folder / f'b_{(0, 2, 10)[part]}{suffix}')
    with Bag(folder) as bag:
        assert bag.damage is None and check_beginning(bag) == 60
    last = folder / f'b_10{suffix}'
    cut(last, last.stat().st_size // 2)
    with Bag(folder) as bag:
        assert 44 < check_beginning(bag) < 56
        assert last.name in bag.damage and f'b_2{suffix}' not in bag.damage
    cut(last, 0)
    with Bag(folder) as bag:
        assert check_beginning(bag) == 40 and f'{last} is empty' in bag.damage
    for file in folder.iterdir():
        cut(file, 0)
    with pytest.raises(BagError, match=f'b_0{suffix} is empty.*b_2{suffix} is empty'):
        Bag(folder)


def test_messages_that_the_recorder_compressed(tmp_path):
    types, path = message_types(), tmp_path / 'b'
    writer = Writer(path, version=9)
    writer.set_compression(CompressionMode.MESSAGE, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection('/i', IMAGE, typestore=types)
        writer.write(connection, 7, types.serialize_cdr(image(RGB, 'rgb8'), IMAGE))
    for _ in range(2):  # with metadata and without
        with Bag(path) as bag:
            assert bag.first('/i').data.tobytes() == RGB.tobytes()
        (path / 'metadata.yaml').unlink(missing_ok=True)


@pytest.mark.parametrize('damaged', [False, True])
@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_own_types_with_a_definition_and_without(tmp_path, storage, damaged):
    with BagWriter(tmp_path / 'b', storage) as writer:
        for name in ('Known', 'Unknown'):
            msgtype = f'own_msgs/msg/{name}'
            writer.types.register(get_types_from_msg('std_msgs/Header header\nint32 x', msgtype))
            writer.write(f'/{name}', msgtype, 1, writer.types.types[msgtype](header(5), 42))
        writer.write('/i', IMAGE, 2, image(RGB, 'rgb8'))
    file = next(p for p in (tmp_path / 'b').iterdir() if p.suffix in ('.mcap', '.db3'))
    if storage == 'sqlite3':
        with sqlite3.connect(file) as database:
            database.execute('DELETE FROM message_definitions WHERE topic_type LIKE "%/Unknown"')
        database.close()
        if damaged:
            cut(file, file.stat().st_size - 1)
    else:  # a schema of an encoding that is not ROS's
        data = file.read_bytes()
        mark = b'own_msgs/msg/Unknown' + struct.pack('<I', 7)
        assert data.count(mark + b'ros2msg') == 2
        file.write_bytes(data.replace(mark + b'ros2msg', mark + b'unknown'))
        if damaged:
            cut(file, file.stat().st_size - 1)
    with Bag(tmp_path / 'b') as bag:
        assert (bag.damage is not None) == damaged
        assert bag.topics['/Unknown'] == ('own_msgs/msg/Unknown', 1, False)
        assert bag.first('/Known').x == 42 and bag.first('/i').width == WIDTH
        with pytest.raises(BagError, match='/Unknown at 1 ns.*does not define'):
            bag.first('/Unknown')


def test_types_defined_in_idl(tmp_path):
    file = record(tmp_path / 'b', 'sqlite3', count=1)
    parts = {
        'own_msgs/msg/Outer': 'struct Outer { own_msgs::msg::Inner inner; };',
        'own_msgs/msg/Inner': 'struct Inner { int32 x; };',
    }
    text = ''.join(
        f'{80 * "="}\nIDL: {name}\nmodule own_msgs {{ module msg {{ {body} }}; }};\n'
        for name, body in parts.items()
    )
    with sqlite3.connect(file) as database:
        database.execute(
            'UPDATE message_definitions SET topic_type = "own_msgs/msg/Outer", '
            'encoding = "ros2idl", encoded_message_definition = ? WHERE id = 1',
            [text],
        )
        database.execute('UPDATE topics SET type = "own_msgs/msg/Outer" WHERE id = 1')
        database.execute(
            'UPDATE messages SET data = ? WHERE topic_id = 1', [struct.pack('<4Bi', 0, 1, 0, 0, 42)]
        )
    database.close()
    with Bag(file) as bag:
        assert bag.first('/i').inner.x == 42


# ROS 1

NOETIC = get_typestore(Stores.ROS1_NOETIC)
TF1 = 'tf/msg/tfMessage'
NOETIC.register(get_types_from_msg('geometry_msgs/TransformStamped[] transforms', TF1))
OWN = 'own_msgs/msg/Reading'
NOETIC.register(get_types_from_msg('Header header\nfloat32 value\ntime when', OWN))


def header1(stamp_ns: int):
    time = NOETIC.types['builtin_interfaces/msg/Time'](*divmod(stamp_ns, 10**9))
    return NOETIC.types['std_msgs/msg/Header'](7, time, 'camera')


def ros1(path: Path, compression: str = '') -> Path:
    """Write a ROS 1 bag of 20 pictures and one message each of other types."""
    types = NOETIC.types
    roi = types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False)
    others = {
        '/cam/camera_info': types[CAMERA_INFO](
            header1(8),
            HEIGHT,
            WIDTH,
            'plumb_bob',
            np.zeros(5),
            np.arange(9.0),
            np.eye(3).ravel(),
            np.zeros(12),
            0,
            0,
            roi,
        ),
        '/tf': types[TF1]([]),
        '/range': types['sensor_msgs/msg/Range'](header1(9), 1, 0.5, 0.1, 4.0, 2.5),
        '/own': types[OWN](header1(10), 1.5, header1(11).stamp),
    }
    writer = Ros1Writer(path)
    if compression:
        writer.set_compression(Ros1Writer.CompressionFormat[compression])
    with writer:

        def add(topic: str, msgtype: str, latching: int | None = None):
            return writer.add_connection(topic, msgtype, typestore=NOETIC, latching=latching)

        pictures = add('/cam/image', IMAGE)
        for i in range(20):
            picture = types[IMAGE](header1(i), *NOISE.shape[:2], 'rgb8', 0, 720, NOISE.ravel())
            writer.write(pictures, 1000 + i, NOETIC.serialize_ros1(picture, IMAGE))
        for i, (topic, message) in enumerate(others.items()):
            connection = add(topic, message.__msgtype__, 1 if topic == '/own' else None)
            data = NOETIC.serialize_ros1(message, message.__msgtype__)
            writer.write(connection, 1100 + i, data)
    return path


@pytest.mark.parametrize('compression', ['', 'LZ4', 'BZ2'])
def test_ros1_bag(tmp_path, compression):
    with Bag(ros1(tmp_path / 'x.bag', compression)) as bag:
        assert bag.topics == {
            '/cam/image': (IMAGE, 20, False),
            '/cam/camera_info': (CAMERA_INFO, 1, False),
            '/tf': (TF, 1, False),
            '/range': ('sensor_msgs/msg/Range', 1, False),
            '/own': (OWN, 1, True),
        }
        assert (bag.start_ns, bag.end_ns, bag.damage) == (1000, 1103, None)
        messages = list(bag.messages())
        assert [m.log_ns for m in messages] == [*range(1000, 1020), *range(1100, 1104)]
        assert [header_stamp(m.data) for m in messages[:20]] == list(range(20))
        assert bag.decode(messages[3]).data.tobytes() == NOISE.tobytes()
        # Bit for bit what a ROS 2 recorder would have written.
        types = message_types()
        expected = image(NOISE, 'rgb8', 3)
        expected.header.frame_id = 'camera'
        assert messages[3].data == bytes(types.serialize_cdr(expected, IMAGE))
        assert bag.first('/cam/camera_info').k.tolist() == list(range(9))
        assert bag.first('/tf').transforms == []
        distance = bag.first('/range')  # ROS 2 has added a variance
        assert (distance.range, distance.variance, distance.header.stamp.nanosec) == (2.5, 0, 9)
        reading = bag.first('/own')
        assert reading.value == 1.5 and reading.when.nanosec == 11
        assert bag.has_header(OWN)
        assert find_streams(bag) == Streams('/cam/image', '/cam/camera_info')


def test_ros1_bag_without_its_index(tmp_path):
    path = ros1(tmp_path / 'x.bag')
    size = path.stat().st_size
    cut(path, size - 200)
    with pytest.raises(BagError, match=r'index looks damaged.*rosbag reindex .*x\.bag'):
        Bag(path)
    data = path.read_bytes()
    at = data.index(b'index_pos=') + 10
    path.write_bytes(data[:at] + bytes(8) + data[at + 8 :])
    active = path.rename(tmp_path / 'x.bag.active')  # its name until it is closed
    with pytest.raises(BagError, match=r'not indexed.*rosbag reindex .*x\.bag\.active'):
        Bag(active)


# Which topic is what


def test_the_planned_names(tmp_path):
    truth = '/ground_truth/'
    path = write(
        tmp_path / 'b',
        {
            '/camera/image_rect/compressed': compressed(RGB, '.jpg', 'jpeg'),
            '/camera/camera_info': camera_info(),
            truth + 'depth/image_rect/compressedDepth': compressed(
                (DEPTH * 1000).astype(np.uint16),
                '.png',
                '16UC1; compressedDepth png',
                lead=bytes(12),
            ),
            truth + 'depth/camera_info': camera_info(),
            truth + 'semantics/labels/compressed': compressed(
                LABELS, '.png', 'mono8; png compressed'
            ),
            truth + 'odom': odometry(),
        },
    )
    with Bag(path) as bag:
        assert find_streams(bag) == Streams(
            '/camera/image_rect/compressed',
            '/camera/camera_info',
            truth + 'depth/image_rect/compressedDepth',
            truth + 'semantics/labels/compressed',
            truth + 'odom',
        )


def test_color_wins_over_grey_depth_and_infrared(tmp_path):
    path = write(
        tmp_path / 'b',
        {
            '/cam/gray/image_raw': image(LABELS, 'mono8'),
            '/cam/gray/camera_info': camera_info(),
            '/cam/color/image_raw': image(RGB, 'bgr8'),
            '/cam/color/image_raw/compressed': compressed(
                RGB, '.jpg', 'bgr8; jpeg compressed bgr8'
            ),
            '/cam/color/camera_info': camera_info(),
            '/cam/aligned_depth_to_color/image_raw': image(
                (DEPTH * 1e3).astype(np.uint16), '16UC1'
            ),
            '/cam/aligned_depth_to_color/camera_info': camera_info(),
            '/cam/infra1/image_rect_raw': image(LABELS, 'mono8'),
        },
    )
    with Bag(path) as bag:
        assert find_streams(bag) == Streams('/cam/color/image_raw', '/cam/color/camera_info')


def test_raw_ground_truth_is_found_and_options_win(tmp_path):
    path = write(
        tmp_path / 'b',
        {
            '/cam/image': image(RGB, 'rgb8'),
            '/cam/camera_info': camera_info(),
            '/gt/depth': image(DEPTH, '32FC1'),
            '/gt/labels': image(LABELS, 'mono8'),
            '/gt/odom': odometry(),
            '/other/depth': image(DEPTH, '32FC1'),
            '/slam': odometry(),
        },
    )
    with Bag(path) as bag:
        found = find_streams(bag)
        assert (found.depth, found.labels, found.odom) == ('/gt/depth', '/gt/labels', '/gt/odom')
        found = find_streams(bag, depth='/other/depth', odom='/slam')
        assert (found.depth, found.labels, found.odom) == ('/other/depth', '/gt/labels', '/slam')
        with pytest.raises(BagError, match='/slam is a nav_msgs/msg/Odometry, but the depth-gt'):
            find_streams(bag, depth='/slam')
        with pytest.raises(BagError, match=r'no topic /cam/image_raw; did you mean /cam/image\?'):
            find_streams(bag, image='/cam/image_raw')
        with pytest.raises(BagError, match=r'no topic /gt_depth; did you mean /gt/depth\?'):
            find_streams(bag, depth='/gt_depth')
        with pytest.raises(BagError, match=r'no topic /odom; did you mean /gt/odom\?'):
            find_streams(bag, odom='/odom')


def test_a_topic_of_a_type_that_there_is_not(tmp_path):
    path = write(
        tmp_path / 'b', {'/cam/image': image(RGB, 'rgb8'), '/cam/camera_info': camera_info()}
    )
    with Bag(path) as bag, pytest.raises(BagError, match='no topic /cam/odom; it has /cam/'):
        find_streams(bag, odom='/cam/odom')


def test_lidar_and_poses_as_ground_truth(tmp_path):
    cloud = TYPES[POINT_CLOUD](header(1), 1, 0, [], False, 12, 0, np.zeros(0, np.uint8), True)
    camera = {'/cam/image': image(RGB, 'rgb8'), '/cam/camera_info': camera_info()}
    path = write(
        tmp_path / 'b',
        camera
        | {
            '/ground_truth/points': cloud,
            '/ground_truth/pose': stamped(POSE_WITH_COVARIANCE),
            '/mocap': stamped(POSE),
        },
    )
    with Bag(path) as bag:
        found = find_streams(bag)
        assert (found.depth, found.odom) == (None, '/ground_truth/pose')
        found = find_streams(bag, depth='/ground_truth/points', odom='/mocap')
        assert (found.depth, found.odom) == ('/ground_truth/points', '/mocap')
        with pytest.raises(BagError, match='PoseStamped, but the semantics-gt topic must be'):
            find_streams(bag, labels='/mocap')
    path = write(tmp_path / 'c', camera | {'/gt/pose': stamped(POSE), '/gt/odom': odometry()})
    with Bag(path) as bag:
        assert find_streams(bag).odom == '/gt/odom'


def test_two_cameras_ask_for_a_choice(tmp_path):
    path = write(
        tmp_path / 'b',
        {
            f'/{side}/{name}': message
            for side in ('left', 'right')
            for name, message in (('image', image(RGB, 'rgb8')), ('camera_info', camera_info()))
        },
    )
    with Bag(path) as bag:
        with pytest.raises(BagError, match='/left/image, /right/image: choose one with --image$'):
            find_streams(bag)
        assert find_streams(bag, image='/right/image').camera_info == '/right/camera_info'


def test_no_image_lists_the_topics(tmp_path):
    path = write(tmp_path / 'b', {'/cam/camera_info': camera_info(), '/odom': odometry()})
    with Bag(path) as bag, pytest.raises(BagError, match=r'no camera image topic.*/odom \(nav'):
        find_streams(bag)


def test_no_camera_info(tmp_path):
    path = write(tmp_path / 'b', {'/cam/image': image(RGB, 'rgb8')})
    with Bag(path) as bag, pytest.raises(BagError, match='no camera_info topic'):
        find_streams(bag)


# Depth, labels and poses


def test_depth_in_millimetres_and_metres():
    millimetres = (DEPTH * 1000).astype(np.uint16)
    millimetres[0, 0] = 0
    lead = struct.pack('<iff', 0, 0, 0)
    for message in (
        image(millimetres, '16UC1', padding=2),
        compressed(millimetres, '.png', '16UC1; compressedDepth png', lead=lead),
        compressed(millimetres, '.png', '16UC1; compressedDepth', lead=lead),
    ):
        depth = decode_depth(message)
        assert depth.dtype == np.float32 and np.isnan(depth[0, 0])
        assert np.abs(depth - DEPTH).ravel()[1:].max() < 1.01e-3
    metres = DEPTH.copy()
    metres[0, :3] = 0, np.inf, np.nan
    decoded = decode_depth(image(metres, '32FC1'))
    assert np.isnan(decoded[0, :3]).all() and np.array_equal(decoded[1:], DEPTH[1:])


def test_quantised_float_depth_follows_the_transport_plugin():
    # compressed_depth_image_transport: code = A / depth + B, 0 = invalid.
    a, b = 100.0 * 101.0, 1.0 - 101.0
    codes = np.round(a / DEPTH + b).astype(np.uint16)
    codes[2, 3] = 0
    lead = struct.pack('<iff', 0, a, b)
    depth = decode_depth(compressed(codes, '.png', '32FC1; compressedDepth png', lead))
    assert np.isnan(depth[2, 3])
    valid = np.isfinite(depth)
    assert valid.sum() == DEPTH.size - 1
    # Half a code step in inverse depth.
    assert np.all(np.abs(depth - DEPTH)[valid] <= 0.51 * DEPTH[valid] ** 2 / a * 1.02)


@pytest.mark.parametrize('pixels', [np.zeros((4, 6), np.uint8), np.zeros((4, 6, 3), np.uint16)])
def test_compressed_depth_of_another_kind(pixels):
    message = compressed(pixels, '.png', '16UC1; compressedDepth png', bytes(12))
    with pytest.raises(ValueError, match='not uint16'):
        decode_depth(message)
    message.data = message.data[:7]
    with pytest.raises(ValueError, match='cannot be decoded'):
        decode_depth(message)


def test_labels():
    for message in (image(LABELS, 'mono8', padding=3), compressed(LABELS, '.png', 'mono8; png')):
        assert np.array_equal(decode_labels(message), LABELS)
    with pytest.raises(ValueError, match='publish mono8'):
        decode_labels(compressed(RGB, '.png', 'png'))


def test_big_endian_depth():
    message = image(DEPTH.astype('>f4'), '32FC1')
    message.is_bigendian = 1
    assert np.array_equal(decode_depth(message), DEPTH)


def test_bad_pictures():
    short = image(DEPTH, '32FC1')
    short.data = short.data[:-1]
    with pytest.raises(ValueError, match='8x6 32FC1 with step 32 has 191 bytes'):
        decode_depth(short)
    empty = TYPES[COMPRESSED_IMAGE](header(1), 'mono8; png', np.zeros(9, np.uint8))
    with pytest.raises(ValueError, match='9 bytes cannot be decoded'):
        decode_labels(empty)
    with pytest.raises(ValueError, match="'mono16' is not supported"):
        decode_depth(image(LABELS.astype(np.uint16), 'mono16'))
    with pytest.raises(ValueError, match="'rgb8' is not supported"):
        decode_labels(image(RGB, 'rgb8'))


@pytest.mark.parametrize('msgtype', [ODOMETRY, POSE, POSE_WITH_COVARIANCE])
def test_poses(tmp_path, msgtype):
    # 2 atan2(0.6, 0.8) about z, whose cosine is 0.28 and whose sine is 0.96.
    turned = [[0.28, -0.96, 0, 1], [0.96, 0.28, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]]
    with Bag(write(tmp_path / 'b', {'/p': stamped(msgtype)})) as bag:
        assert np.allclose(decode_pose(bag.first('/p')), turned, atol=1e-12)
    # One that is not quite of unit length is scaled, not believed.
    loose = decode_pose(stamped(msgtype, (0.0, 0.0, 0.62, 0.826667)))
    assert np.allclose(loose[:3, :3] @ loose[:3, :3].T, np.eye(3), atol=1e-12)
    with pytest.raises(ValueError, match='no direction'):
        decode_pose(stamped(msgtype, (0.0, 0.0, 0.0, 0.0)))
    for bad in (stamped(msgtype, x=np.nan), stamped(msgtype, (0.0, 0.0, np.inf, 1.0))):
        with pytest.raises(ValueError, match='finite'):
            decode_pose(bad)
