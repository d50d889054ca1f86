"""``evaluate_bag`` with the images and calibrations that recordings have."""

import cv2
import numpy as np
import pytest
from support.bag_messages import compressed, header, image
from support.drive_recording import HEIGHT, WIDTH, info
from support.evaluating import PERIOD, evaluate, read

from depth_ros.bags.messages import CAMERA_INFO, IMAGE
from depth_ros.bags.writer import BagWriter

pytestmark = pytest.mark.slow  # whole evaluations


def test_compressed_images_are_read_too(tiny, tmp_path):
    with BagWriter(tmp_path / 'bag') as writer:
        for index in range(3):
            stamp = (index + 1) * PERIOD
            picture = compressed(np.full((HEIGHT, WIDTH, 3), 90, np.uint8), '.jpg', 'jpeg')
            picture.header.stamp = header(stamp).stamp
            writer.write('/cam/image/compressed', picture.__msgtype__, stamp, picture)
            writer.write('/cam/camera_info', CAMERA_INFO, stamp, info(stamp))
    evaluate(tmp_path / 'bag', '--model', tiny / 'perception.onnx', '--out', tmp_path / 'out')
    assert read(tmp_path / 'out')['frames']['judged'] == 3


def test_images_are_rectified_as_for_a_training(tiny, tmp_path):
    """Raw images with D give the numbers of images that were rectified before."""
    distortion = np.array([-0.3, 0.1, 0, 0, 0])

    def recorded(name, rectify, d):
        rng = np.random.default_rng(0)
        with BagWriter(tmp_path / name) as writer:
            for i in range(6):
                stamp = (i + 1) * PERIOD
                calibration = info(stamp)
                matrix = calibration.p.reshape(3, 4)[:, :3].copy()
                calibration.k, calibration.d = matrix.ravel(), d
                blocks = rng.integers(0, 255, (6, 8, 3), np.uint8)
                pixels = cv2.resize(blocks, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
                if rectify:
                    pixels = cv2.undistort(pixels, matrix, distortion, None, matrix)
                writer.write('/cam/camera_info', CAMERA_INFO, stamp, calibration)
                writer.write('/cam/image', IMAGE, stamp, image(pixels, 'rgb8', stamp))
        return tmp_path / name

    def judged(bag, *options):
        out = tmp_path / f'out{len(list(tmp_path.iterdir()))}'
        evaluate(bag, '--model', tiny, '--out', out, *options)
        found = read(out)
        numbers = found['consistency']['photometric'], found['consistency']['inconsistency']
        return pytest.approx(numbers, rel=1e-3), numbers, found['notes']

    raw, before = recorded('raw', False, distortion), recorded('flat', True, np.zeros(5))
    wanted, _, notes = judged(before)
    assert not any('rectified' in note for note in notes)
    _, found, notes = judged(raw, '--rectified', 'no')
    assert found == wanted
    assert any('not rectified (as told): they are rectified here' in note for note in notes)
    _, found, notes = judged(raw, '--rectified', 'yes')
    assert found != wanted and not any('rectified' in note for note in notes)


def test_calibrations_of_zeros_at_first(tiny, tmp_path):
    with BagWriter(tmp_path / 'bag') as writer:
        for i in range(12):
            stamp, calibration = (i + 1) * PERIOD, info((i + 1) * PERIOD)
            if i < 3:
                calibration.k, calibration.p = np.zeros(9), np.zeros(12)
            pixels = np.full((HEIGHT, WIDTH, 3), 9 * i, np.uint8)
            writer.write('/cam/camera_info', CAMERA_INFO, stamp, calibration)
            writer.write('/cam/image', IMAGE, stamp, image(pixels, 'rgb8', stamp))
    evaluate(tmp_path / 'bag', '--model', tiny, '--out', tmp_path / 'out', '--no-recording')
    assert read(tmp_path / 'out')['frames'] == {'recorded': 12, 'judged': 12, 'skipped': {}}
