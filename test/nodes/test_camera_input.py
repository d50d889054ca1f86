"""The place where the newest image waits for the worker."""

import threading

from depth_ros.nodes.camera_input import Newest


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
