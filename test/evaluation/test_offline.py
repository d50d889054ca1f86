"""Networks on a recording's images, without nodes: what the nodes would publish, to the bit."""

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import numpy as np
import pytest
from support.bag_messages import RGB, compressed, image
from support.encodings import TABLE, check, fields, smooth_picture
from support.onnx_models import row_depth, save_perception, save_pose
from support.ros_process import info_message
from support.scene import FOCAL, HEIGHT, WIDTH, bands

from depth_ros.bags.messages import IMAGE
from depth_ros.bags.reader import Bag
from depth_ros.bags.writer import BagWriter
from depth_ros.core.camera import CameraError, ImageFit, Intrinsics
from depth_ros.core.images import ImageError
from depth_ros.core.se3 import OPTICAL_IN_BASE, inverse, pose, pose_from_list, rotation_from_vector
from depth_ros.core.trajectory import NoiseModel, Trajectory
from depth_ros.evaluation.runner import (
    AHEAD,
    LOOP_EVERY,
    RecordedImage,
    Runner,
    Settings,
    decode,
    decode_ahead,
)
from depth_ros.inference.loader import installed_backends, load_engine

SECOND = 10**9
INFO = info_message(WIDTH, HEIGHT, FOCAL)
LABELS = np.repeat([3, 2, 1, 0], 12).astype(np.uint8)[:, None].repeat(64, axis=1)
SKY = LABELS == 3


def perception(folder, settings=None, backend='onnxruntime', **options):
    path = save_perception(folder / 'perception.onnx', **options)
    return Runner(load_engine(path, backend, 1), None, settings or Settings())


def odometry(folder, settings=None, **options):
    path = save_pose(folder / 'pose.onnx', **options)
    settings = replace(settings or Settings(), refinement='none')
    return Runner(None, load_engine(path, 'onnxruntime', 1), settings)


def picture(seconds, rgb):
    return RecordedImage(round(seconds * SECOND), 'camera', rgb)


def grey(level, height=HEIGHT, width=WIDTH):
    return np.full((height, width, 3), level, np.uint8)


def drive(runner, stamps, levels):
    """The outputs for grey images of these stamps in seconds and levels."""
    return [runner(picture(s, grey(level)), INFO) for s, level in zip(stamps, levels, strict=True)]


def ahead(distance):
    """A motion along the camera's axis."""
    return pose(np.eye(3), [0, 0, distance])


# Perception


def test_outputs_are_those_of_the_node(tmp_path):
    image = bands()
    output = perception(tmp_path)(picture(1.5, image), INFO)
    assert output.stamp == 1_500_000_000
    assert output.camera == Intrinsics(FOCAL, FOCAL, 63.5, 47.5, WIDTH, HEIGHT)
    assert output.view == Intrinsics(32, 32, 31.5, 23.5, 64, 48)
    np.testing.assert_array_equal(output.labels, LABELS)
    np.testing.assert_array_equal(output.depth, row_depth())
    np.testing.assert_array_equal(output.published, np.where(SKY, np.nan, row_depth()))
    assert output.published.dtype == output.depth.dtype == np.float32
    np.testing.assert_array_equal(output.rgb, image[::2, ::2])
    assert output.pose is output.step is output.loop is None
    assert [n for n in output.numbers if 'scale' not in n] == ['perception_ms']
    assert output.numbers['scale_used'] == output.numbers['scale_model'] == 1 and output.metric


@pytest.mark.parametrize(
    'settings, options, focal, factor, limits',
    [
        pytest.param({}, {}, 2 * FOCAL, 2, (0, 99), id='focal length'),
        pytest.param({'max_depth': 8.0}, {}, FOCAL, 1, (0, 8), id='max_depth'),
        pytest.param(
            {'max_depth': 16.0}, {}, 2 * FOCAL, 2, (0, 8), id='max_depth is of the result'
        ),
        pytest.param(
            {}, {'depth_range': (6.0, 10.0)}, 2 * FOCAL, 2, (6, 10), id='range is of the network'
        ),
        pytest.param({'depth_scale': 3.0}, {'metric': False}, FOCAL, 3, (0, 99), id='depth_scale'),
        pytest.param({'depth_scale': 3.0}, {}, FOCAL, 1, (0, 99), id='metric without depth_scale'),
        pytest.param({}, {'metric': False}, FOCAL, 1, (0, 99), id='model units'),
    ],
)
def test_scale_and_limits(tmp_path, settings, options, focal, factor, limits):
    runner = perception(tmp_path, Settings(**settings), **options)
    output = runner(picture(1, bands()), info_message(WIDTH, HEIGHT, focal))
    depth = row_depth()
    valid = ~SKY & (depth >= limits[0]) & (depth <= limits[1])
    assert 0 < valid.sum() and ((limits == (0, 99)) or valid.sum() < (~SKY).sum())
    np.testing.assert_array_equal(output.depth, factor * depth)  # every pixel
    np.testing.assert_array_equal(output.published, np.where(valid, factor * depth, np.nan))


def ground_rows():
    """Depth of flat ground 0.5 units below the camera."""
    below = np.maximum((np.arange(48) - 23.5) / 32, 0.02)
    return np.repeat(0.5 / below[:, None], 64, axis=1)


def test_metres_from_the_height_of_the_camera(tmp_path):
    settings = Settings(scale_source='height', camera_height=1.5)
    runner = perception(tmp_path, settings, metric=False, depth=ground_rows())
    outputs = drive(runner, np.arange(12) / 10, [20] * 12)  # road everywhere
    first, last = outputs[0], outputs[-1]
    assert not first.metric and np.isnan(first.published).all()  # the node waits
    np.testing.assert_allclose(first.depth, ground_rows(), rtol=1e-6)
    assert last.metric and last.numbers['scale_used'] == last.numbers['scale_height']
    assert last.numbers['scale_used'] == pytest.approx(3.0, rel=1e-3)
    np.testing.assert_allclose(last.depth, 3 * ground_rows(), rtol=1e-3)
    np.testing.assert_allclose(last.published[30:], last.depth[30:])


def test_a_source_that_was_not_chosen_is_measured_for_comparison(tmp_path):
    runner = perception(tmp_path, Settings(camera_height=1.5), depth=ground_rows())
    last = drive(runner, np.arange(12) / 10, [20] * 12)[-1]
    assert last.numbers['scale_used'] == 1 and last.numbers['scale_height'] == pytest.approx(3)
    np.testing.assert_allclose(last.depth, ground_rows(), rtol=1e-6)


def test_depth_or_labels_alone(tmp_path):
    output = perception(tmp_path, outputs=('depth',))(picture(1, bands()), INFO)
    assert output.labels is None
    np.testing.assert_array_equal(output.published, row_depth())  # no sky is known
    output = perception(tmp_path, outputs=('labels',))(picture(1, bands()), INFO)
    assert output.depth is output.published is None
    np.testing.assert_array_equal(output.labels, LABELS)


def test_crop_keeps_the_middle(tmp_path):
    wide = np.zeros((HEIGHT, 2 * WIDTH, 3), np.uint8)
    wide[:, 64:192] = bands()
    info = info_message(2 * WIDTH, HEIGHT, FOCAL)
    output = perception(tmp_path, Settings(fit='crop'))(picture(1, wide), info)
    np.testing.assert_array_equal(output.labels, LABELS)
    assert output.view == Intrinsics(32, 32, 31.5, 23.5, 64, 48)
    stretched = perception(tmp_path)(picture(1, wide), info)
    model = Intrinsics(32, 32, 31.5, 23.5, 64, 48)
    assert stretched.view == ImageFit.create(stretched.camera, model).network
    assert stretched.view.fx == 16
    # Half as wide, objects look sqrt(2) times as small.
    np.testing.assert_allclose(stretched.depth, row_depth() * np.sqrt(0.5), rtol=1e-6)


@pytest.mark.parametrize('backend', installed_backends())
def test_outputs_outlive_the_next_image(tmp_path, backend):
    runner = perception(tmp_path, backend=backend)
    first = runner(picture(1, bands()), INFO)
    runner(picture(2, grey(0)), INFO)
    np.testing.assert_array_equal(first.labels, LABELS)
    np.testing.assert_array_equal(first.published, np.where(SKY, np.nan, row_depth()))


def test_calibration_of_another_view(tmp_path):
    runner = perception(tmp_path)
    with pytest.raises(CameraError, match='not the same view'):
        runner(picture(1, bands()[:, :64]), INFO)


# Odometry


def test_trajectory_is_the_chain_of_the_steps(tmp_path):
    motion = (0.02, -0.3, 0.01, 0.1, 0, 0.5)
    mount = (0.4, 0.1, 1.5, *OPTICAL_IN_BASE[3:])
    levels = [100, 120, 90, 90, 140]
    outputs = drive(
        odometry(tmp_path, Settings(camera_pose=mount), motion=motion), np.arange(5) / 10, levels
    )
    extrinsic = pose_from_list(mount)
    trajectory = Trajectory(extrinsic, NoiseModel(0, 0, 0, 0))
    expected = np.eye(4)
    for i, output in enumerate(outputs):
        if i:
            # The network sees a centimetre more for each level brighter.
            step = pose(
                rotation_from_vector(motion[:3]), [0.1, 0, 0.5 + (levels[i] - levels[i - 1]) / 100]
            )
            np.testing.assert_allclose(output.step, step, atol=1e-6)
            trajectory.advance(output.step, 0.1)
            np.testing.assert_array_equal(output.pose, trajectory.pose)
            expected = expected @ extrinsic @ step @ inverse(extrinsic)
        np.testing.assert_allclose(output.pose, expected, atol=1e-5)
    assert outputs[0].step is None and list(outputs[1].numbers) == ['odometry_ms']
    np.testing.assert_array_equal(outputs[1].rgb, grey(120))  # as it is, without a depth


@pytest.mark.parametrize(
    'settings, metric, length',
    [
        (Settings(), True, 0.5),
        (Settings(translation_scale=4.0), True, 0.5),
        (Settings(), False, 0.5),
        (Settings(translation_scale=4.0), False, 2.0),
    ],
)
def test_scale_of_the_motion(tmp_path, settings, metric, length):
    outputs = drive(odometry(tmp_path, settings, metric=metric), [0, 0.1, 0.2], [9, 9, 9])
    # The camera looks along the base's x axis.
    positions = np.array([o.pose[:3, 3] for o in outputs])
    np.testing.assert_allclose(positions, np.outer([0, 1, 2], [length, 0, 0]), atol=1e-6)


def test_motions_that_are_missed(tmp_path):
    runner = odometry(tmp_path, Settings(max_gap=0.5))
    stamps = [0, 0.1, 0.1, 0.2, 0.7, 1.3, 1.4, 0.8, 0.9]
    levels = [100, 100, 200, 110, 110, 0, 0, 0, 0]
    outputs = drive(runner, stamps, levels)
    along = [None if o.step is None else round(o.step[2, 3], 5) for o in outputs]
    # The image at the same stamp is passed over; a pause of just max_gap is none.
    assert along == [None, 0.5, None, 0.6, 0.5, None, 0.5, None, 0.5]
    places = [None if o.pose is None else round(o.pose[0, 3], 5) for o in outputs]
    assert places == [0, 0.5, None, 1.1, 1.6, None, 2.1, None, 2.6]
    assert runner.missed == {
        'an image has the stamp of the one before': 1,
        'a gap is over max_gap': 1,
        'the clock went back': 1,
    }


def test_late_images_are_not_counted_twice(tmp_path):
    runner = odometry(tmp_path)
    outputs = drive(runner, [0, 0.1, 0.3, 0.2, 0.4], [9] * 5)
    assert [o.pose is None for o in outputs] == [False, False, False, True, False]
    assert outputs[-1].pose[0, 3] == pytest.approx(1.5)
    # The motion to the last image is not from the image before it.
    assert outputs[-1].step is None and outputs[2].step is not None
    assert runner.missed == {'an image is older than the one before': 1}


def test_images_that_change_size(tmp_path):
    runner = odometry(tmp_path)
    sizes = [(HEIGHT, WIDTH)] * 2 + [(48, 64)] * 2
    outputs = [runner(picture(i / 10, grey(50, *size)), INFO) for i, size in enumerate(sizes)]
    assert [o.step is None for o in outputs] == [True, False, True, False]
    assert [o.pose is None for o in outputs] == [False, False, True, False]
    assert outputs[3].pose[0, 3] == pytest.approx(1)
    assert runner.missed == {'the size of the images changed': 1}


def test_a_network_that_returns_no_motion(tmp_path):
    runner = odometry(tmp_path, motion=(0, 0, 0, 0, 0, np.nan))
    outputs = drive(runner, [0, 0.1, 0.2], [9, 9, 9])
    assert [o.pose is None for o in outputs] == [False, True, True]
    assert re.search(r'returned \[0.0, .*nan\]; the model is damaged', runner.failure)
    assert runner.missed == {'the pose network returned no motion': 2}


def test_one_image_without_a_motion(tmp_path):
    """The next motion spans two frames, so that nothing is missing."""
    runner = odometry(tmp_path, fails_on_black=True)
    outputs = drive(runner, np.arange(5) / 10, [100, 100, 0, 120, 120])
    assert [o.step is None for o in outputs] == [True, False, True, True, False]
    places = [None if o.pose is None else round(o.pose[0, 3], 5) for o in outputs]
    assert places == [0, 0.5, None, 1.2, 1.7]
    assert runner.missed == {'the pose network returned no motion': 1} and not runner.failure


def test_loops_are_given_now_and_then(tmp_path):
    count = 3 * LOOP_EVERY + 1
    stamps = np.arange(count) / 10
    stamps[2 * LOOP_EVERY - 1 :] += 5  # one of the two steps before is missed
    levels = np.arange(count) ** 2 % 50 * 4
    outputs = drive(odometry(tmp_path), stamps, levels)
    assert [i for i, o in enumerate(outputs) if o.loop] == [LOOP_EVERY, 3 * LOOP_EVERY]
    last = levels[LOOP_EVERY - 2 : LOOP_EVERY + 1].astype(float)
    for found, (a, b) in zip(outputs[LOOP_EVERY].loop, ((0, 1), (1, 2), (0, 2)), strict=True):
        np.testing.assert_allclose(found, ahead(0.5 + (last[b] - last[a]) / 100), atol=1e-5)


def test_the_same_images_give_the_same_numbers(tmp_path):
    engines = (
        load_engine(save_perception(tmp_path / 'a.onnx')),
        load_engine(save_pose(tmp_path / 'b.onnx', motion=(0.1, 0.2, 0.3, 1, 2, 3))),
    )
    noise = np.random.default_rng(0).integers(0, 256, (5, HEIGHT, WIDTH, 3), np.uint8)
    runs = []
    for _ in range(2):
        runner = Runner(*engines, Settings())
        runs.append([runner(picture(i / 10, rgb), INFO) for i, rgb in enumerate(noise)])
    for one, other in zip(*runs, strict=True):
        for name in ('rgb', 'depth', 'published', 'labels', 'pose'):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        same = [{n: v for n, v in r.numbers.items() if not n.endswith('_ms')} for r in (one, other)]
        assert same[0] == same[1]


# Decoding ahead


def test_images_are_decoded_in_order_and_damaged_ones_are_errors(tmp_path):
    unknown, short = image(RGB, 'rgb8', 3), image(RGB, 'rgb8', 4)
    unknown.encoding = '7UC3'
    short.data = short.data[:-1]
    with BagWriter(tmp_path / 'b') as writer:
        good = [image(RGB + i, 'rgb8', i) for i in range(3 * AHEAD)]
        good[2:2] = [unknown, short, b'\0\1\0\0\0']
        for i, message in enumerate(good):
            writer.write('/i', IMAGE, i, message)
    with Bag(tmp_path / 'b') as bag, ThreadPoolExecutor(2) as pool:
        found = list(decode_ahead(bag.messages(), pool))
    assert [m.log_ns for m, _ in found] == list(range(3 * AHEAD + 3))
    errors = [p for _, p in found[2:5]]
    assert all(isinstance(e, ImageError) for e in errors)
    assert [
        text in str(e)
        for text, e in zip(
            ("'7UC3' is not supported", 'truncated: 143 bytes', 'no sensor_msgs/msg/Image'),
            errors,
            strict=True,
        )
    ] == [True] * 3
    pictures = [p for _, p in found[:2] + found[5:]]
    assert [p.stamp for p in pictures] == list(range(3 * AHEAD))
    for i, one in enumerate(pictures):
        np.testing.assert_array_equal(one.rgb, RGB + i)
        assert one.frame_id == 'camera_optical_frame'


@pytest.mark.parametrize('encoding', TABLE)
def test_every_encoding(tmp_path, encoding):
    """The table of test_images: what a node takes can be evaluated."""
    rgb = smooth_picture(64, 48)
    values = fields(rgb, encoding, 6, True)
    message = image(rgb, 'rgb8')
    for name, value in values.items():
        setattr(message, name, np.frombuffer(value, np.uint8) if name == 'data' else value)
    with BagWriter(tmp_path / 'b') as writer:
        writer.write('/i', IMAGE, 0, message)
    with Bag(tmp_path / 'b') as bag:
        (recorded,) = bag.messages()
    check(decode(recorded).rgb, rgb, encoding)


def test_compressed_images(tmp_path):
    whole = compressed(RGB[..., ::-1], '.png', 'rgb8; png compressed bgr8')
    cut = compressed(cv2.resize(RGB, (64, 48)), '.jpg', 'jpeg')
    cut.data = cut.data[:200]
    with BagWriter(tmp_path / 'b') as writer:
        for i, message in enumerate((cut, whole)):
            writer.write('/i', message.__msgtype__, i, message)
    with Bag(tmp_path / 'b') as bag, ThreadPoolExecutor(2) as pool:
        (_, error), (_, found) = decode_ahead(bag.messages(), pool)
    assert isinstance(error, ImageError) and 'truncated' in str(error)
    np.testing.assert_array_equal(found.rgb, RGB)
    assert found.stamp == SECOND


def test_decoding_stays_a_few_images_ahead(tmp_path):
    with BagWriter(tmp_path / 'b') as writer:
        for i in range(5 * AHEAD):
            writer.write('/i', IMAGE, i, image(RGB, 'rgb8', i))
    taken = []
    with Bag(tmp_path / 'b') as bag, ThreadPoolExecutor(2) as pool:
        messages = (taken.append(m.log_ns) or m for m in bag.messages())
        for i, _ in enumerate(decode_ahead(messages, pool)):
            assert len(taken) <= i + 1 + AHEAD
    assert len(taken) == 5 * AHEAD
