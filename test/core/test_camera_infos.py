"""Which camera_info belongs to an image: by stamp, then order, of those that can be used."""

from types import SimpleNamespace

from depth_ros.core.camera_infos import CameraInfos, is_usable


def info(focal=100.0, width=160, height=120):
    k = [focal, 0, 79.5, 0, focal, 59.5, 0, 0, 1]
    roi = SimpleNamespace(width=0, height=0, x_offset=0, y_offset=0)
    return SimpleNamespace(k=k, p=[0.0] * 12, d=[], width=width, height=height, roi=roi)


ZERO = SimpleNamespace(**{**vars(info()), 'k': [0.0] * 9})


def test_the_stamp_then_the_latest_before_then_the_first_behind():
    infos = CameraInfos()
    assert not infos and infos.of(5) is None
    a, b, c = info(100), info(110), info(120)
    infos.add(a, 10)
    infos.add(b, 20)
    seen = infos.count
    infos.add(c, 30)
    assert infos.of(20, seen=seen) is b and infos.of(30, seen=seen) is c
    assert infos.of(25, seen=seen) is b and infos.of(25) is c  # the latest to have come
    assert infos.of(5, seen=0) is a
    assert infos.has(20) and not infos.has(25)
    infos.clear()
    assert not infos and infos.of(20) is None


def test_what_cannot_be_used_is_taken_only_where_there_is_no_other():
    """A driver sends zeros until it has read its calibration, or stamps everything with zero."""
    infos, good = CameraInfos(), info()
    infos.add(ZERO, 0)
    infos.add(ZERO, 10)
    assert infos.of(10) is ZERO
    infos.add(good, 20)
    infos.add(ZERO, 30)
    assert infos.of(10) is good and infos.of(30) is good and infos.of(10, seen=1) is good
    # Another view cannot be used either; another resolution of the same one can.
    infos.add(info(width=100), 40)
    assert infos.of(40, size=(160, 120)) is good and infos.of(40, size=(80, 60)) is good
    assert is_usable(good) and is_usable(good, (80, 60)) and not is_usable(good, (80, 80))
    assert not is_usable(ZERO) and not is_usable(info(float('nan')))


def test_of_two_cameras_on_one_topic_each_image_gets_its_own():
    infos, left, right = CameraInfos(), info(100), info(110)
    infos.add(left, 10, 'left')
    infos.add(right, 10, 'right')
    assert infos.of(10, 'left') is left and infos.of(10, 'right') is right
    assert infos.of(11, 'left') is left and infos.of(11, '') is right
    assert infos.of(10, 'other') is right  # sloppy frames: as if there were none
    infos.add(ZERO, 12, 'left')
    assert infos.of(12, 'left') is left
