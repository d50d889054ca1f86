"""Recorded bags become sequence folders: any encoding, distorted, with odometry, GPS and depth."""

import cv2
import numpy as np
import pytest
from rosbags.convert.converter import convert
from rosbags.typesys import Stores, get_typestore
from support.encodings import TABLE, check, fields, smooth_picture
from support.prepared import (
    HEIGHT,
    P2,
    WIDTH,
    command,
    picture,
    prepare,
    read_json,
    snapshot,
    write,
)
from support.robot import STEP, Robot, drive, make_bag

from depth_ros.bags.writer import BagWriter
from depth_ros.core.se3 import pose, rotation_from_vector
from train.data.dataset import FrameDataset
from train.data.readers.bag import Topics, bag_source
from train.data.sequences import DataError, find_sequences, read_image, read_map

pytestmark = pytest.mark.slow  # recordings are written, read and rectified


def test_bag(tmp_path):
    sequence = prepare('bag', make_bag(tmp_path / 'bag'), tmp_path / 'out')['bag']
    assert len(sequence.images) == 4
    np.testing.assert_allclose(np.diff(sequence.times), 0.1, atol=1e-6)
    np.testing.assert_allclose(sequence.intrinsics, [[50, 0, 29.75], [0, 50, 19.75], [0, 0, 1]])
    write(tmp_path / 'wanted.png', picture(10))
    assert np.array_equal(
        read_image(sequence.images[2], 64, 40), read_image(tmp_path / 'wanted.png', 64, 40)
    )
    # Frames 0 and 3 are outside of the odometry.
    assert np.isnan(sequence.odometry[:, 0, 0]).tolist() == [True, False, False, True]
    assert sequence.distance(1, 2) == pytest.approx(0.1)
    np.testing.assert_allclose(
        sequence.odometry[1], pose(rotation_from_vector([0, 0, 0.1]), [0.1, 0, 0]), atol=1e-7
    )
    none = prepare('bag', make_bag(tmp_path / 'none', odometry=False), tmp_path / 'none_out')
    assert none['none'].odometry is None


def test_several_bags_make_one_data_set(tmp_path, capsys):
    bags = [drive(tmp_path / place / 'run', range(0, 200, 4)) for place in ('a', 'b')]
    bags.append(drive(tmp_path / 'c', range(0, 160, 4), storage='sqlite3'))
    size = '--width', 64, '--height', 40, '--part', 'both'
    command(*bags[:2], '--out', tmp_path / 'out', *size)
    found = [
        [s.folder.name for s in find_sequences(tmp_path / 'out' / part)]
        for part in ('train', 'val', 'test')
    ]
    assert found == [['a_run', 'b_run']] * 3
    # Others join later; what is there is neither written nor read again.
    before = snapshot(tmp_path / 'out')
    for bag in bags[:2]:
        next(bag.glob('*.mcap')).unlink()
    command(*bags, '--out', tmp_path / 'out', *size)
    after = snapshot(tmp_path / 'out')
    assert {k: after[k] for k in before if k != 'summary.html'} == {
        k: v for k, v in before.items() if k != 'summary.html'
    }
    assert (tmp_path / 'out/train/c').is_dir()
    capsys.readouterr()
    command(*bags, '--out', tmp_path / 'out', *size)
    assert 'nothing to do' in capsys.readouterr().out
    assert snapshot(tmp_path / 'out') == after
    drive(tmp_path / 'd/c', range(0, 40, 4))
    with pytest.raises(DataError, match="has a 'c' already.*rename"):
        command(tmp_path / 'd/c', '--out', tmp_path / 'out', *size)


def test_a_pause_parts_neighbours(tmp_path):
    def later(robot):
        for i in range(20, 30):
            robot.compressed(3 + i * STEP, picture(4 * i))

    bag = drive(tmp_path / 'bag', range(0, 80, 4), later)
    sequence = prepare(bag, tmp_path / 'out')['bag']
    assert np.diff(sequence.frames[:, 0]).tolist() == [1] * 19 + [2] + [1] * 9
    assert len(FrameDataset(tmp_path / 'out', 64, 40)) == 18 + 8
    slow = prepare(bag, tmp_path / 'slow', '--rate', 5)['bag']
    assert np.diff(slow.frames[:, 0]).tolist() == [1] * 9 + [2] + [1] * 4
    assert (
        '1 pauses without images, the longest 3.1 s' in (tmp_path / 'out/summary.html').read_text()
    )


@pytest.mark.parametrize('encoding', TABLE)
def test_every_encoding(tmp_path, encoding):
    """The table of test_images: what a node takes can be trained on."""
    rgb = smooth_picture(WIDTH, HEIGHT)
    with BagWriter(tmp_path / 'bag') as bag:
        robot = Robot(bag)
        robot.camera_info(0)
        for i, (padding, bigendian) in enumerate(((0, False), (6, False), (0, True))):
            values = fields(rgb, encoding, padding, bigendian)
            values['data'] = np.frombuffer(values['data'], np.uint8)
            robot.put('/cam/image_raw', 'sensor_msgs/msg/Image', i / 10, *values.values())
    recording = bag_source(tmp_path / 'bag', Topics('/cam/image_raw'))
    for _, read in recording.pictures(range(3)):
        check(cv2.cvtColor(read(), cv2.COLOR_BGR2RGB), rgb, encoding)


def bend(model, d, x, y):
    """Where a lens puts the ray (x, y, 1), as the models are defined; by hand."""
    r2 = x**2 + y**2
    if model == 'equidistant':
        r = np.sqrt(r2)
        theta = np.arctan(r)
        scale = theta * (1 + sum(k * theta ** (2 * i + 2) for i, k in enumerate(d))) / r
        return x * scale, y * scale
    k1, k2, p1, p2, k3, *rest = [*d, 0, 0, 0][:8]
    k4, k5, k6 = rest
    radial = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
    return (
        x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x**2),
        y * radial + p1 * (r2 + 2 * y**2) + 2 * p2 * x * y,
    )


@pytest.mark.parametrize(
    ('model', 'd'),
    [
        ('plumb_bob', (-0.3, 0.1, 0.002, -0.001, 0)),
        ('rational_polynomial', (0.5, -0.2, 0.001, 0.001, 0.01, 0.9, -0.1, 0.05)),
        ('equidistant', (-0.02, 0.01, 0, 0)),
        ('equidistant', (0, 0, 0, 0)),
    ],
)
def test_distorted_images_and_depth_are_rectified(tmp_path, model, d):
    """A grid of dots, drawn where the lens puts them, ends where a pinhole camera has them."""
    k = np.array([[300.0, 0, 330], [0, 310, 235], [0, 0, 1]])
    p = np.array([[280.0, 0, 320, 0], [0, 280, 240, 0], [0, 0, 1, 0]])
    turn = rotation_from_vector([0.02, -0.03, 0.01])  # of the rectified camera
    dots = [(u, v) for u in range(160, 481, 80) for v in range(120, 361, 60)]
    rays = np.linalg.inv(p[:, :3]) @ np.array([(u, v, 1) for u, v in dots]).T
    x, y, z = turn.T @ rays
    image, depth = np.zeros((480, 640), np.uint8), np.ones((480, 640), np.float32)
    for bent in zip(*bend(model, d, x / z, y / z), strict=True):
        u, v, _ = k @ [*bent, 1]
        cv2.circle(image, (round(u * 16), round(v * 16)), 5 * 16, 255, -1, cv2.LINE_AA, 4)
        cv2.circle(depth, (round(u), round(v)), 5, 7, -1)
    with BagWriter(tmp_path / 'bag') as bag:
        robot = Robot(bag, {'size': (640, 480), 'model': model, 'd': d, 'k': k, 'r': turn, 'p': p})
        robot.camera_info(0)
        for i in range(2):
            robot.raw(i * STEP, 'mono8', image[..., None])
            robot.raw(i * STEP, '32FC1', depth[..., None], '/lidar_depth')
    recording = bag_source(tmp_path / 'bag', Topics(depth='/lidar_depth'))
    np.testing.assert_allclose(recording.intrinsics, p[:, :3])
    for index, read in recording.pictures(range(2)):
        straight, far = read()[..., 0], recording.depth(index)
        for u, v in dots:
            patch = straight[v - 12 : v + 13, u - 12 : u + 13].astype(float)
            rows, columns = np.mgrid[v - 12 : v + 13, u - 12 : u + 13]
            found = (columns * patch).sum() / patch.sum(), (rows * patch).sum() / patch.sum()
            assert np.hypot(found[0] - u, found[1] - v) < 0.4
            assert far[v, u] == 7
        assert set(np.unique(far)) <= {0, 1, 7}, 'depth is not blended'


def test_what_is_rectified_already_stays(tmp_path):
    distortion = (-0.3, 0.1, 0, 0, 0)
    raw = prepare(
        'bag',
        make_bag(tmp_path / 'raw', distortion, '/direct/image_raw'),
        tmp_path / 'a',
        '--min-motion',
        0,
    )
    rect = prepare(
        'bag',
        make_bag(tmp_path / 'rect', distortion, '/cam/image_rect'),
        tmp_path / 'b',
        '--min-motion',
        0,
    )
    wanted = cv2.undistort(picture(5), P2[:, :3], np.array(distortion), None, P2[:, :3])
    write(tmp_path / 'straight.png', wanted)
    write(tmp_path / 'bent.png', picture(5))
    straight, bent = (
        read_image(tmp_path / f'{n}.png', 64, 40).astype(float) for n in ('straight', 'bent')
    )
    assert np.abs(straight - bent).mean() > 2
    assert np.abs(read_image(raw['raw'].images[1], 64, 40) - straight).mean() < 0.5
    assert np.array_equal(read_image(rect['rect'].images[1], 64, 40), bent)
    assert read_json(tmp_path / 'a', 'raw')['facts']['rectification'].startswith('rectified here')
    assert read_json(tmp_path / 'b', 'rect')['facts']['rectification'] == (
        "recorded rectified (by its topic's name)"
    )
    strange = drive(tmp_path / 'strange', [0, 5], info={'d': (0.1,) * 6, 'model': 'double_sphere'})
    with pytest.raises(DataError, match="model 'double_sphere', which is not supported"):
        prepare('bag', strange, tmp_path / 'no')


def test_a_calibration_that_changes(tmp_path, capsys):
    """A sequence has one: that of most pictures. The others are left out, and it is said."""
    p = P2 * [2, 2, 1, 0]
    with BagWriter(tmp_path / 'zoom') as bag:
        robot = Robot(bag)
        for i in range(20):
            robot.info = {'k': p[:, :3], 'p': p} if i >= 8 else {}
            robot.info |= {'k': np.zeros((3, 3)), 'p': np.zeros((3, 4))} if i == 10 else {}
            robot.camera_info(i * STEP)
            robot.compressed(i * STEP, picture(4 * i))
    sequence = prepare('bag', tmp_path / 'zoom', tmp_path / 'out')['zoom']
    assert len(sequence.images) == 12 and abs(sequence.times[0] - 1e9 - 0.8) < 1e-5
    np.testing.assert_allclose(sequence.intrinsics[0, 0], 100)  # 200 at half the size
    said = capsys.readouterr().out
    assert (
        'calibration changes (fx 100 of 8 images, fx 200 of 12 images): 8 images are left' in said
    )


def test_pictures_that_are_rectified_already(tmp_path):
    """Told by an option; found out where the topic's name does not say so."""
    bag = make_bag(tmp_path / 'bag', (-0.3, 0.1, 0, 0, 0), '/direct/image_raw')
    kept = prepare('bag', bag, tmp_path / 'yes', '--rectified', 'yes', '--min-motion', 0)['bag']
    write(tmp_path / 'same.png', picture(5))
    assert np.array_equal(
        read_image(kept.images[1], 64, 40), read_image(tmp_path / 'same.png', 64, 40)
    )
    facts = read_json(tmp_path / 'yes', 'bag')['facts']
    assert facts['rectification'] == 'recorded rectified (as told)'


def test_depth_goes_to_the_nearest_image(tmp_path):
    def depths(robot):
        for seconds, millimetres in ((0.012, 1000), (0.105, 2000), (0.11, 2500), (0.25, 3000)):
            robot.raw(seconds, '16UC1', np.full((30, 40, 1), millimetres, np.uint16), '/lidar')

    bag = drive(tmp_path / 'bag', range(0, 32, 8), depths)
    sequence = prepare('bag', bag, tmp_path / 'out', '--depth', '/lidar')['bag']
    found = [sequence.depth_path(i) for i in range(4)]
    assert [path.exists() for path in found] == [True, True, False, False]
    assert [int(read_map(path)[5, 5]) for path in found[:2]] == [1000, 2000]
    assert read_map(found[0]).shape == (30, 40)
    assert '50 % of the images' in read_json(tmp_path / 'out', 'bag')['facts']['depth']


@pytest.mark.parametrize(
    ('farthest', 'unit'), [(60, 1e-3), (200, 1 / 256), (900, 900 * 1.5 / 65535)]
)
def test_far_depth_is_kept(tmp_path, farthest, unit):
    """Files of 16 bits in millimetres end at 65 m: the unit follows the farthest depth."""

    def depths(robot):
        for i in range(4):
            metres = np.full((30, 40, 1), 10.0 + i, np.float32)
            metres[5, 5] = farthest
            metres[0, 0] = np.nan
            robot.raw(i * STEP, '32FC1', metres, '/lidar')

    bag = drive(tmp_path / 'bag', range(0, 32, 8), depths)
    sequence = prepare('bag', bag, tmp_path / 'out', '--depth', '/lidar')['bag']
    assert sequence.depth_scale == pytest.approx(unit, rel=1e-6)
    for i in range(4):
        depth = read_map(sequence.depth_path(i), sequence.depth_scale)
        assert depth[5, 5] == pytest.approx(farthest, abs=unit)
        assert depth[9, 9] == pytest.approx(10 + i, abs=unit) and depth[0, 0] == 0


def test_speed_by_gps(tmp_path):
    """5 m/s, half north and east, from fixes five times a second with two that are none."""

    def fixes(robot):
        for i in range(-5, 11):
            metres = 5 * i / 5 / np.sqrt(2)
            north = np.degrees(metres / 6371008.8)
            robot.fix(i / 5, 60 + north, 8 + north / np.cos(np.radians(60)))
        robot.fix(0.33, 0.0, 0.0, -1)
        robot.fix(0.55, float('nan'), float('nan'))

    shifts = range(0, 120, 8)
    sequence = prepare('bag', drive(tmp_path / 'fix', shifts, fixes), tmp_path / 'a')['fix']
    np.testing.assert_allclose(sequence.speeds, 5, rtol=1e-3)
    assert sequence.distance(2, 6) == pytest.approx(2, rel=1e-3)

    def velocities(robot):
        fixes(robot)  # a measured velocity wins
        for i in range(5):
            robot.velocity(0.1 + i / 5, 3.0, 4.0 * i, 0.0)
            robot.velocity(0.1 + i / 5, 9.0, 9.0, 9.0, topic='/cmd_vel')

    sequence = prepare('bag', drive(tmp_path / 'vel', shifts, velocities), tmp_path / 'b')['vel']
    np.testing.assert_allclose(sequence.speeds[[1, 3, 5]], [3, 5, np.hypot(3, 8)], rtol=1e-6)
    assert np.isnan(sequence.speeds[[0, 10]]).all()
    with pytest.raises(DataError, match='no .*NavSatFix.* on /odom'):
        prepare('bag', tmp_path / 'vel', tmp_path / 'no', '--gps', '/odom')


def test_what_is_wrong_with_a_bag_is_said(tmp_path, capsys):
    with BagWriter(tmp_path / 'bag') as bag:
        robot = Robot(bag)
        for i in range(40):
            robot.now = i * STEP
            robot.camera_info(i * STEP)
            image = picture(4 * i)
            whole = cv2.imencode('.png', image)[1].tobytes()
            robot.compressed(
                {12: 1.3, 13: 1.2, 20: 0.2}.get(i, i * STEP),
                {5: b'', 7: whole[:-40], 9: picture(0)[:20]}.get(i, image),
            )
        robot.now = 5
        robot.compressed(3.9, picture(156))
    sequence = prepare('bag', tmp_path / 'bag', tmp_path / 'out')['bag']
    # One of the 40 was stamped a second and more before others: the following are renumbered.
    assert [int(p.stem) for p in sequence.images] == [i for i in range(39) if i not in (5, 7, 9)]
    assert (np.diff(sequence.times) > 0).all()
    text = capsys.readouterr().out
    for part in (
        "image 5 of /cam/image_raw/compressed: compressed image (format 'png', 0 bytes) is empty",
        'image 7 of',
        'is truncated',
        "'000009' has 128x20 pixels",
        'images were recorded out of order',
        '1 images left out whose stamps go back by up to',
        '1 images have the stamp of another',
        'no wheel odometry and no GPS',
        '3 damaged',
    ):
        assert part in text
    page = (tmp_path / 'out/summary.html').read_text()
    assert 'stamps go back by' in page and '3 damaged images' in page


def test_recordings_of_ros1_and_of_a_crash(tmp_path, capsys):
    bag = drive(tmp_path / 'bag', range(0, 160, 4), storage='mcap')
    whole = prepare(bag, tmp_path / 'whole')['bag']
    convert(
        [bag],
        tmp_path / 'old.bag',
        '',
        0,
        None,
        '',
        None,
        get_typestore(Stores.ROS1_NOETIC),
        [],
        [],
        [],
        [],
    )
    ros1 = prepare(tmp_path / 'old.bag', tmp_path / 'ros1')['old']
    np.testing.assert_allclose(ros1.times, whole.times)
    assert all(
        a.read_bytes() == b.read_bytes() for a, b in zip(ros1.images, whole.images, strict=True)
    )
    capsys.readouterr()
    data = next(bag.glob('*.mcap')).read_bytes()
    (tmp_path / 'cut.mcap').write_bytes(data[: len(data) * 2 // 3])
    cut = prepare(tmp_path / 'cut.mcap', tmp_path / 'crash')['cut']
    assert 10 < len(cut.images) < 40
    assert all(
        a.read_bytes() == b.read_bytes() for a, b in zip(cut.images, whole.images, strict=False)
    )
    assert 'warning: cut: the recording is damaged' in capsys.readouterr().out


def test_bags_that_cannot_be_used(tmp_path):
    with pytest.raises(DataError, match='no topic /other'):
        prepare('bag', make_bag(tmp_path / 'bag'), tmp_path / 'out', '--image', '/other')
    with pytest.raises(DataError, match='/wheel'):
        prepare('bag', tmp_path / 'bag', tmp_path / 'out', '--odom', '/wheel')

    def colour(robot):
        robot.raw(0, 'rgb8', picture(0), '/lidar')

    with pytest.raises(DataError, match="/lidar of .* is no depth: depth encoding 'rgb8'"):
        prepare(
            drive(tmp_path / 'colour', [0, 5], colour),
            tmp_path / 'out',
            '--image',
            '/cam/image_raw/compressed',
            '--depth',
            '/lidar',
        )

    def two(robot):
        robot.odometry(0, (0, 0, 0), 0, '/a')
        robot.odometry(0, (0, 0, 0), 0, '/b')

    with pytest.raises(DataError, match='several topics for --odom: choose one of /a, /b'):
        prepare('bag', drive(tmp_path / 'two', [0, 5], two), tmp_path / 'out')
    assert not (tmp_path / 'out').exists()
