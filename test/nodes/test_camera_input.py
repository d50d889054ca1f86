"""The place where the newest image waits for the worker, and the camera_info of an image."""

import threading
import types

import pytest
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CameraInfo, Image

from depth_ros.nodes import camera_input
from depth_ros.nodes.camera_input import CameraInput, Newest


def test_only_the_newest_frame_waits():
    frames = Newest()
    for i in range(5):
        frames.put((i,))
    assert frames.take(lambda: True) == (4,)
    assert (frames.received, frames.dropped) == (5, 4)
    frames.put((5,))
    assert frames.take(lambda: True) == (5,)
    assert (frames.received, frames.dropped) == (6, 4)


def test_a_frame_waits_until_the_taker_is_ready():
    frames, ready, taken = Newest(), threading.Event(), []
    taker = threading.Thread(target=lambda: taken.append(frames.take(ready.is_set)))
    taker.start()
    frames.put(('image',))
    taker.join(0.05)
    assert not taken
    ready.set()
    frames.wake()
    taker.join(10)
    assert taken == [('image',)]


def test_closing_releases_the_taker():
    frames, taken = Newest(), []
    taker = threading.Thread(target=lambda: taken.append(frames.take(lambda: True)))
    taker.start()
    frames.close()
    taker.join(10)
    assert taken == [None]


class Clock:
    """Stands still at 100 s."""

    nanoseconds = 100 * 10**9

    def now(self):
        return self


@pytest.fixture
def camera(monkeypatch):
    """An input without ROS; `waits` counts the times that a camera_info was waited for."""
    monkeypatch.setattr(camera_input, 'FollowingSubscription', lambda *_: None)
    node = types.SimpleNamespace(resolve_topic_name=str, get_clock=Clock)
    made = CameraInput(node, None, 'raw', 'auto')
    made.waits = 0

    def wait(ready, seconds):
        made.waits += 1
        return ready()

    monkeypatch.setattr(made.frames, 'wait', wait)
    return made


def stamped(kind, number, **fields):
    message = kind(**fields)
    message.header.stamp = Time(sec=number)
    return message


def test_stamps_before_1970_are_taken_as_they_are(camera):
    camera._on_image(stamped(Image, -1000))
    assert camera.frames.received == 1 and camera.age == 1100


def test_a_camera_info_now_and_then_is_not_waited_for(camera):
    """One camera_info in 15 images has an image's stamp."""
    for number in range(60):
        if number % 15 == 0:
            camera._on_info(stamped(CameraInfo, number))
        message = stamped(Image, number)
        camera._on_image(message)
        found = camera.info_for(message)
        assert found.header.stamp.sec == number - number % 15
    assert camera.waits <= 1  # at the start nothing is known


def test_a_camera_info_that_comes_behind_each_image_is_waited_for(camera):
    for number in range(5):
        camera._on_image(stamped(Image, number))
        if number == 4:
            camera.info_for(stamped(Image, number))
        camera._on_info(stamped(CameraInfo, number))
    assert camera.waits == 1
    for number in range(5, 8):  # the cable of camera_info is pulled
        camera._on_image(stamped(Image, number))
        camera.info_for(stamped(Image, number))
    assert camera.waits == 2


class Graph:
    """A node that sees these topics, {name: short type}."""

    def __init__(self, topics, remapped=None):
        self.topics = {t: f'sensor_msgs/msg/{k}' for t, k in topics.items()}
        self.remapped = remapped or {}

    def get_topic_names_and_types(self):
        return [(t, [k]) for t, k in self.topics.items()]

    def count_publishers(self, topic):
        return topic in self.topics

    def get_publishers_info_by_topic(self, topic):
        kind = self.topics.get(topic)
        return [types.SimpleNamespace(topic_type=kind)] if kind else []

    def resolve_topic_name(self, name, only_expand=False):
        return f'/{name}' if only_expand else self.remapped.get(name, f'/{name}')


@pytest.fixture
def hint(monkeypatch):
    """What is said where these topics are there and no image comes."""

    class Subscription:
        def __init__(self, node, kind, topic, *_):
            self.node, self.topic, self.reliable = node, topic, False
            self.type_name = f'sensor_msgs/msg/{kind.__name__}'

        def publishers(self):
            return self.node.get_publishers_info_by_topic(self.topic)

    monkeypatch.setattr(camera_input, 'FollowingSubscription', Subscription)

    def hint(transport, **topics):
        graph = Graph({'/' + t.replace('__', '/'): k for t, k in topics.items()})
        made = CameraInput(graph, None, transport, 'auto')
        return made._why_silent(made._image, 'image')

    return hint


def test_the_other_transport_of_the_same_camera_is_named(hint):
    assert 'image_transport to compressed' in hint('raw', image__compressed='CompressedImage')
    assert 'image_transport to raw' in hint('compressed', image='Image')
    assert 'image_transport to raw' in hint('compressed', image__compressed='Image')


def test_a_compressed_topic_with_a_name_of_its_own_gets_a_remap_that_works(hint):
    text = hint('compressed', cam__image_compressed='CompressedImage')
    assert '-r image/compressed:=/cam/image_compressed' in text
    text = hint('compressed', cam__image__compressed='CompressedImage')
    assert '-r image:=/cam/image' in text and '-r image:=/cam/image/' not in text


def test_outputs_of_other_nodes_are_no_cameras(hint):
    outputs = dict.fromkeys(['rear__depth__color', 'rear__semantics__labels', 'depth__color'])
    text = hint('raw', **dict.fromkeys(outputs, 'Image'))
    assert 'no topic of this type is published' in text
    text = hint('raw', **dict.fromkeys(outputs, 'Image'), zoom__image_raw='Image')
    assert '-r image:=/zoom/image_raw' in text and 'rear' not in text


def test_compressed_images_may_be_remapped_alone():
    assert camera_input.compressed_topic(Graph({}, {'image': '/a'})) == '/a/compressed'
    alone = Graph({}, {'image': '/a', 'image/compressed': '/b/jpeg'})
    assert camera_input.compressed_topic(alone) == '/b/jpeg'
