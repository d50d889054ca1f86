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
        camera._on_image(stamped(Image, number))
        found = camera.info_for(Time(sec=number))
        assert found.header.stamp.sec == number - number % 15
    assert camera.waits <= 1  # at the start nothing is known


def test_a_camera_info_that_comes_behind_each_image_is_waited_for(camera):
    for number in range(5):
        camera._on_image(stamped(Image, number))
        if number == 4:
            camera.info_for(Time(sec=number))
        camera._on_info(stamped(CameraInfo, number))
    assert camera.waits == 1
    for number in range(5, 8):  # the cable of camera_info is pulled
        camera._on_image(stamped(Image, number))
        camera.info_for(Time(sec=number))
    assert camera.waits == 2
