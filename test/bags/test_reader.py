"""What is wrong with a recording is named; files without metadata and types of its own are read."""

import shutil
import sqlite3
import struct

import pytest
import yaml
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Writer
from rosbags.typesys import get_types_from_msg
from support.bag_files import NOISE, check_beginning, cut, record, write
from support.bag_messages import (
    RGB,
    WIDTH,
    camera_info,
    header,
    image,
)

from depth_ros.bags.messages import (
    IMAGE,
    BagError,
    message_types,
)
from depth_ros.bags.reader import Bag
from depth_ros.bags.unpack import zstd
from depth_ros.bags.writer import BagWriter


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
    for text in ('rosbag2_bagfile_information: [', '', 'a: b', 'rosbag2_bagfile_information: 3'):
        (plain / 'metadata.yaml').write_text(text)
        with Bag(plain) as bag:
            assert bag.damage is None
            (remark,) = bag.remarks
            assert 'metadata.yaml cannot be read' in remark and 'ros2 bag reindex' in remark
            assert bag.first('/cam/image').data.tobytes() == RGB.tobytes()
    (plain / 'plain.mcap').unlink()
    with pytest.raises(BagError, match='none of its storage files.*metadata.yaml cannot be read'):
        Bag(plain)


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_what_metadata_says_of_topics_is_not_asked(tmp_path, storage):
    """Others edit QoS, counts and times in it, as rosbag2 itself advises; the files decide."""
    path = record(tmp_path / 'b', storage, count=5).parent
    text = (path / 'metadata.yaml').read_text()
    edited = yaml.safe_load(text)
    found = edited['rosbag2_bagfile_information']
    found['version'], found['message_count'] = 10, 99
    found['starting_time']['nanoseconds_since_epoch'] = 10**18
    for topic in found['topics_with_message_count']:
        topic['message_count'] = 1
        topic['topic_metadata'] |= {
            'offered_qos_profiles': '',
            'serialization_format': 'other',
            'type': 'std_msgs/msg/String',
        }
    (path / 'metadata.yaml').write_text(yaml.safe_dump(edited))
    with Bag(path) as bag:
        assert check_beginning(bag) == 10
        assert bag.damage is None and 'version 10, newer than 9' in bag.remarks[0]
        assert [m.topic for m in bag.messages(['/c'])] == ['/c'] * 5
    (path / 'metadata.yaml').write_text(text)
    with Bag(path) as bag:
        assert check_beginning(bag) == 10 and not bag.remarks


def test_files_that_metadata_does_not_name(tmp_path):
    """A recorder that died has not named its last file; a mended copy of another is no part."""
    for part in range(3):
        with BagWriter(tmp_path / f'p{part}') as writer:
            for i in range(part * 20, part * 20 + 20):
                message = image(NOISE, 'rgb8', i // 2) if i % 2 == 0 else camera_info(i // 2)
                writer.write('/i' if i % 2 == 0 else '/c', message.__msgtype__, 2 * i, message)
    folder = tmp_path / 'p0'
    shutil.copy(tmp_path / 'p1' / 'p1.mcap', folder / 'p1.mcap')
    shutil.copy(folder / 'p0.mcap', folder / 'recovered.mcap')
    with Bag(folder) as bag:
        assert check_beginning(bag) == 40 and bag.damage is None
        assert 'does not name p1.mcap, which is read, too' in bag.remarks[0]
        assert 'recovered.mcap is left out' in bag.remarks[1]
    split = tmp_path / 'split'
    split.mkdir()
    for part in (0, 2):
        shutil.copy(tmp_path / f'p{part}' / f'p{part}.mcap', split / f's_{part}.mcap')
    with Bag(split) as bag:
        assert bag.damage is None and 's_1.mcap, by the numbering, is not there' in bag.remarks[0]


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('metadata', [True, False])
def test_files_that_the_recorder_compressed(tmp_path, storage, metadata):
    """Whole, cut short, and of a recorder that died while it compressed the last but one."""
    file = record(tmp_path / 'b', storage, count=10)
    plain, folder = file.read_bytes(), file.parent
    packed = file.with_name(f'{file.name}.zstd')
    packed.write_bytes(zstd.compress(plain))
    text = (folder / 'metadata.yaml').read_text()
    (folder / 'metadata.yaml').write_text(text.replace(f'- {file.name}', f'- {packed.name}'))
    if not metadata:
        (folder / 'metadata.yaml').unlink()
    file.unlink()
    for what in (folder, packed):
        with Bag(what) as bag, Bag(what) as again:
            assert check_beginning(bag) == 20 and bag.damage is None
            assert check_beginning(again) == 20
    # Unpacked again by hand, beside the compressed one or in its place.
    file.write_bytes(plain)
    for _ in range(2):
        with Bag(folder) as bag:
            assert check_beginning(bag) == 20 and bag.damage is None and not bag.remarks
        packed.unlink(missing_ok=True)
    file.unlink()
    parts = b''.join(zstd.compress(plain[i : i + 50_000]) for i in range(0, len(plain), 50_000))
    packed.write_bytes(parts[: len(parts) // 2])
    with Bag(folder) as bag:
        assert 4 < check_beginning(bag) < 20 and packed.name in bag.damage
    packed.write_bytes(b'\x28\xb5\x2f\xfd' + bytes(200))
    with pytest.raises(BagError, match=f'{packed} is damaged'):
        Bag(folder)


def test_no_room_to_unpack(tmp_path, monkeypatch):
    file = record(tmp_path / 'b', count=10)
    packed = file.with_name(f'{file.name}.zstd')
    packed.write_bytes(zstd.compress(file.read_bytes()))
    made = tmp_path / 'tmp'
    made.mkdir()
    monkeypatch.setattr('tempfile.tempdir', str(made))
    with Bag(packed):
        assert len(list(made.iterdir())) == 1
    assert not list(made.iterdir())

    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('pathlib.Path.open', full)
    with pytest.raises(BagError, match='No space left on device.*TMPDIR'):
        Bag(packed)


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
