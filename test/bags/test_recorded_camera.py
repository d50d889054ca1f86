"""The camera_info of each image of a recording, and the images rectified."""

import numpy as np
import pytest
from support.prepared import HEIGHT, P2, WIDTH, picture
from support.robot import STEP, Robot

from depth_ros.bags.messages import BagError, header_frame, header_stamp
from depth_ros.bags.reader import Bag
from depth_ros.bags.recorded_camera import LAG, RecordedCamera
from depth_ros.bags.topics import find_streams
from depth_ros.bags.writer import BagWriter
from depth_ros.core.camera import CameraError

ZOOMED = {'k': P2[:, :3] * [2, 2, 1], 'p': P2 * [2, 2, 1, 0]}
ZERO = {'k': np.zeros((3, 3)), 'p': np.zeros((3, 4))}


def record(path, infos, behind=0.0, every=1):
    """Image i has the camera_info infos[i], which comes so many seconds behind it."""
    with BagWriter(path) as bag:
        robot = Robot(bag)
        for i, values in enumerate(infos):
            robot.now = i * STEP
            robot.compressed(i * STEP, picture(4 * i))
            robot.now, robot.info = i * STEP + behind, values
            if i % every == 0:
                robot.camera_info(i * STEP)
    return path


def focals(path, **options):
    """fx of the camera_info of each image."""
    with Bag(path) as bag:
        camera = RecordedCamera(bag, find_streams(bag), **options)
        found = list(camera.each())
    stamps = [header_stamp(m.data) for m, _ in found]
    assert stamps == sorted(stamps) and all(header_frame(m.data) == 'camera' for m, _ in found)
    return [info.p[0] for _, info in found]


@pytest.mark.parametrize('behind', [0.0, 0.05, 0.35])
def test_each_image_has_the_calibration_of_its_stamp(tmp_path, behind):
    infos = [{}] * 8 + [ZOOMED] * 12
    assert focals(record(tmp_path / 'bag', infos, behind)) == [100] * 8 + [200] * 12


def test_zeros_are_passed_over(tmp_path):
    assert focals(record(tmp_path / 'a', [ZERO] * 3 + [{}] * 5)) == [100] * 8
    assert focals(record(tmp_path / 'b', [{}] * 3 + [ZERO] * 5)) == [100] * 8
    late = [ZERO] * (2 * LAG) + [{}] * 3  # longer than messages are kept
    assert focals(record(tmp_path / 'c', late)) == [100] * len(late)
    assert focals(record(tmp_path / 'd', [ZERO] * 3)) == [0] * 3  # which is said where it is used


def test_one_calibration_for_all_and_one_in_between(tmp_path):
    infos = [{}] * 10 + [ZOOMED] * 10
    assert focals(record(tmp_path / 'bag', infos, every=5)) == [100] * 10 + [200] * 10


def test_a_damaged_calibration_is_left_out(tmp_path):
    path = record(tmp_path / 'bag', [{}] * 4)
    with Bag(path) as bag:
        camera = RecordedCamera(bag, find_streams(bag))
        message = next(bag.messages(['/cam/camera_info']))
        camera.read(message._replace(data=message.data[:60]))
        assert camera.seen == 0
        camera.read(message)
        assert camera.seen == 1


def test_whose_calibration_it_is(tmp_path):
    def bag(name, image, frame, *infos):
        with BagWriter(tmp_path / name) as writer:
            robot = Robot(writer)

            def put(topic, kind, frame, record):
                header, robot.header = robot.header, lambda s: header_of(frame, s)
                record()
                robot.header = header

            def header_of(frame, seconds):
                header = Robot(writer).header(seconds)
                header.frame_id = frame
                return header

            put(image, '', frame, lambda: robot.compressed(0, picture(0), image))
            for topic, other in infos:
                original, robot.put = robot.put, lambda _, *rest, t=topic, p=robot.put: p(t, *rest)
                put(topic, '', other, lambda: robot.camera_info(0))
                robot.put = original
        return tmp_path / name

    def found(path, **given):
        with Bag(path) as opened:
            streams = find_streams(opened, **given)
            return streams.camera_info, RecordedCamera(opened, streams).notes

    image = '/cam0/image_raw/compressed'
    other = bag('other', image, 'left', ('/cam1/camera_info', 'right'))
    with pytest.raises(BagError, match=r'of another|another camera.*--camera-info'):
        found(other)
    topic, (note,) = found(other, camera_info='/cam1/camera_info')
    assert "frame 'right'" in note and "'left'" in note
    assert found(bag('frame', image, 'left', ('/a/camera_info', 'right'), ('/b/info', 'left'))) == (
        '/b/info',
        [],
    )
    sibling = bag('sibling', image, 'left', ('/cam0/camera_info', 'l'), ('/b/info', 'left'))
    assert found(sibling)[0] == '/cam0/camera_info' and len(found(sibling)[1]) == 1
    for name, info in (('root', '/camera_info'), ('below', '/cam0/left/camera_info')):
        assert found(bag(name, image, 'left', (info, 'l')))[0] == info


def test_images_are_rectified_as_told(tmp_path):
    distorted = {'d': (-0.3, 0.1, 0, 0, 0)}
    path = record(tmp_path / 'bag', [distorted] * 3)
    with Bag(path) as bag:
        streams = find_streams(bag)
        cameras = {said: RecordedCamera(bag, streams, said) for said in ('auto', 'yes', 'no')}
        image = picture(0)
        for said, camera in cameras.items():
            assert camera.verdict.rectified == (said == 'yes') and not camera.notes
            same = np.array_equal(camera.rectify(image, camera.first, streams.image), image)
            assert same == (said == 'yes')
            assert np.array_equal(camera.rectify(image, camera.first, '/d/image_rect'), image)
        assert cameras['auto'].describe() == 'rectified here (plumb_bob; by D)'
        assert cameras['yes'].describe() == 'recorded rectified (as told)'
    strange = record(tmp_path / 'strange', [{'d': (0.1,) * 6, 'model': 'double_sphere'}] * 2)
    with Bag(strange) as bag:
        with pytest.raises(CameraError, match='double_sphere'):
            RecordedCamera(bag, find_streams(bag))
        assert RecordedCamera(bag, find_streams(bag), 'yes').verdict.rectified
    assert (WIDTH, HEIGHT) == (128, 80)  # what P2 is of
