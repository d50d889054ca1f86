"""A recording that is written can be read, and appears only when it is complete."""

import pytest
from support.bag_files import write
from support.bag_messages import (
    RGB,
    TYPES,
    WIDTH,
    camera_info,
    image,
)

from depth_ros.bags.messages import (
    CAMERA_INFO,
    IMAGE,
    TF,
    BagError,
    header_stamp,
    message_types,
)
from depth_ros.bags.reader import Bag
from depth_ros.bags.writer import BagWriter


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
