"""Odometry from corners, on drives through a corridor whose depth and motion are known exactly."""

import numpy as np
import pytest
from support import corridor

from depth_ros.core.camera import Intrinsics
from depth_ros.core.se3 import OPTICAL_IN_BASE, inverse, pose, pose_from_list, rotation_from_vector
from depth_ros.core.trajectory import Motion, NoiseModel
from depth_ros.core.visual_odometry import STRANGERS, Missed, Reason, VisualOdometry

BASE = pose_from_list(OPTICAL_IN_BASE)
CAMERA = Intrinsics.from_matrix(corridor.INTRINSICS, corridor.WIDTH, corridor.HEIGHT)
NOISE = NoiseModel(0.01, 0.1, 0.001, 0.05)
PERIOD = 100_000_000  # nanoseconds
STEP = 0.2  # metres an image
TEXTURES = [corridor.texture(n) for n in range(4)]


def picture(place, seed=None, sigma=0.0):
    """What the camera sees from a pose 4x4, uint8 (H, W, 3)."""
    grey, _, _ = corridor.render(place, TEXTURES)
    if sigma:
        noise = np.random.default_rng(seed).normal(0, sigma, grey.shape)
        grey = np.clip(grey + noise, 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


@pytest.fixture(scope='module')
def drive():
    """Pictures and poses of a drive."""
    places = [corridor.pose_at(i, STEP) for i in range(30)]
    return [picture(p) for p in places], places


def odometry(**settings):
    settings = {'refinement': 'pnp', 'camera_height': corridor.CAMERA_HEIGHT, **settings}
    return VisualOdometry(settings.pop('network', None), BASE, NOISE, **settings)


def play(vo, frames, start=0):
    """Step through (number of periods, picture); returns the results."""
    return [vo.step(None, round((n + 10) * PERIOD), CAMERA, image) for n, image in frames]


def moved(places, first=0, last=-1):
    """True pose of the body 4x4, from where it was at ``first``."""
    return BASE @ inverse(places[first]) @ places[last] @ inverse(BASE)


def check_end(vo, places, metres=0.1, degrees=0.5):
    error = inverse(moved(places)) @ vo.trajectory.pose
    assert np.linalg.norm(error[:3, 3]) < metres
    angle = np.degrees(np.arccos(np.clip((np.trace(error[:3, :3]) - 1) / 2, -1, 1)))
    assert angle < degrees


def test_a_drive_in_metres_of_the_cameras_height(drive):
    pictures, places = drive
    vo = odometry()
    first, *motions = play(vo, enumerate(pictures))
    assert first.reason is Reason.FIRST and all(isinstance(m, Motion) for m in motions)
    assert vo.tracked.scale.source == 'height'
    late = inverse(moved(places, last=15)) @ moved(places)
    found = np.eye(4)
    for motion in motions[15:]:
        found = found @ BASE @ motion.transform @ inverse(BASE)
    np.testing.assert_allclose(found[:3, 3], late[:3, 3], atol=0.08 * STEP * 14)
    np.testing.assert_allclose(found[:3, :3], late[:3, :3], atol=0.005)
    assert motions[-1].confidence.trust > 0.7 and not motions[-1].covered


def known_scale(vo):
    """Let the unit of the map be metres, as a network that measures its first step would."""
    vo._network = lambda previous, current: np.array([0, 0, 0, 0, 0, STEP])
    return vo


def metric_drive(vo, frames):
    """Step with a network whose steps are all ``STEP`` long."""
    blank = np.zeros((4, 4, 3), np.uint8)
    return [vo.step(blank, round((n + 10) * PERIOD), CAMERA, image) for n, image in frames]


@pytest.fixture
def metric():
    return known_scale(odometry(camera_height=0.0))


def test_scale_of_the_pose_network(metric, drive):
    pictures, places = drive
    metric_drive(metric, enumerate(pictures))
    assert metric.tracked.scale.source == 'network'
    check_end(metric, places, metres=0.1 * STEP * 29)


@pytest.mark.parametrize('sigma', [0.0, 4.0])
def test_standing_still_is_exactly_no_motion(sigma):
    vo, place = odometry(), corridor.pose_at(3, STEP)
    frames = [(i, picture(place, i, sigma)) for i in range(25)]
    motions = play(vo, frames)[1:]
    for motion in motions:
        np.testing.assert_array_equal(motion.transform, np.eye(4))
    np.testing.assert_array_equal(vo.trajectory.pose, np.eye(4))
    assert np.sqrt(np.diag(vo.trajectory.covariance)).max() < 1e-3


def test_what_passes_a_standing_camera_moves_nothing():
    vo, place = odometry(), corridor.pose_at(3, STEP)
    still = picture(place)
    car = np.repeat(corridor.texture(9)[:110, :200, None], 3, axis=2)
    frames = []
    for i in range(30):
        image = picture(place, i, 1.0)
        left = 12 * i - 200
        a, b = max(left, 0), min(left + 200, corridor.WIDTH)
        if a < b:
            image[40:150, a:b] = car[:, a - left : b - left]
        frames.append((i, image))
    assert still.shape == frames[0][1].shape
    motions = play(vo, frames)[1:]
    assert all(isinstance(m, Motion) for m in motions)
    np.testing.assert_array_equal(vo.trajectory.pose, np.eye(4))


def test_a_stop_in_between(metric, drive):
    pictures, places = drive
    order = [*range(12), *[11] * 10, *range(12, 30)]
    motions = metric_drive(metric, [(n, pictures[i]) for n, i in enumerate(order)])[1:]
    for motion in motions[12:21]:
        np.testing.assert_array_equal(motion.transform, np.eye(4))
    check_end(metric, places, metres=0.1 * STEP * 29)


def test_turning_on_the_spot_invents_no_translation():
    vo = odometry(camera_height=0.0)
    places = [pose(rotation_from_vector([0, 0.03 * i, 0]), [0, 0, 0.5]) for i in range(20)]
    play(vo, enumerate(picture(p) for p in places))
    found = vo.trajectory.pose
    assert np.linalg.norm(found[:3, 3]) < 1e-6
    np.testing.assert_allclose(found[:3, :3], moved(places)[:3, :3], atol=0.01)


def test_turning_on_the_spot_after_a_drive(metric, drive):
    pictures, places = drive
    turn = [
        places[14] @ pose(rotation_from_vector([0, 0.02 * i, 0]), np.zeros(3)) for i in range(1, 16)
    ]
    metric_drive(metric, enumerate(pictures[:15]))
    before = metric.trajectory.pose[:3, 3].copy()
    metric_drive(metric, ((15 + i, picture(p)) for i, p in enumerate(turn)))
    assert np.linalg.norm(metric.trajectory.pose[:3, 3] - before) < 0.05


@pytest.mark.parametrize('lost', [(10,), (10, 11, 12), (5, 12, 20)])
def test_dropped_images(metric, drive, lost):
    pictures, places = drive
    found = metric_drive(metric, ((i, p) for i, p in enumerate(pictures) if i not in lost))
    assert all(isinstance(m, Motion) for m in found[1:])
    check_end(metric, places, metres=0.1 * STEP * 29)


def test_doubled_late_and_swapped_images(metric, drive):
    pictures, places = drive
    order = [*range(10), 9, 10, 12, 11, *range(13, 30)]
    found = metric_drive(metric, ((i, pictures[i]) for i in order))
    missed = [m.reason for m in found if isinstance(m, Missed)]
    assert missed == [Reason.FIRST, Reason.DOUBLED, Reason.LATE]
    check_end(metric, places, metres=0.1 * STEP * 29)


@pytest.mark.parametrize('gain, offset', [(1.5, 0), (0.6, 0), (1.0, 40)])
def test_exposure_that_jumps(metric, drive, gain, offset):
    pictures, places = drive
    changed = [
        np.clip(gain * p.astype(float) + offset, 0, 255).astype(np.uint8) if i >= 12 else p
        for i, p in enumerate(pictures)
    ]
    found = metric_drive(metric, enumerate(changed))
    assert not any(m.covered for m in found[1:])
    check_end(metric, places, metres=0.1 * STEP * 29)


def test_a_blocked_lens_is_covered_and_made_up_for(metric, drive):
    pictures, places = drive
    blocked = [np.full_like(p, 17) if i in (14, 15, 16) else p for i, p in enumerate(pictures)]
    before = metric_drive(metric, enumerate(blocked[:14]))[-1]
    spread = metric.trajectory.covariance[0, 0]
    covered = metric_drive(metric, [(i, blocked[i]) for i in (14, 15, 16)])
    for motion in covered:
        assert 'corners are seen again' in motion.covered
        assert motion.confidence.trust == 0 and motion.confidence.reasons == (motion.covered,)
        np.testing.assert_allclose(motion.linear, before.linear, atol=0.05)
    assert metric.trajectory.covariance[0, 0] > spread + 1e-3
    after = metric_drive(metric, [(i, blocked[i]) for i in range(17, 30)])
    assert not any(m.covered for m in after)
    check_end(metric, places, metres=0.1 * STEP * 29)


def test_a_lens_blocked_for_long_begins_anew(metric, drive):
    pictures, places = drive
    shown = [np.zeros_like(p) if 10 <= i < 17 else p for i, p in enumerate(pictures)]
    found = metric_drive(metric, enumerate(shown))
    assert all(isinstance(m, Motion) for m in found[1:])
    assert sum(bool(m.covered) for m in found[1:]) >= 7
    assert not any(m.covered for m in found[20:])
    check_end(metric, places, metres=0.3 * STEP * 29, degrees=4)


def test_a_gap_while_standing_is_no_gap(drive):
    vo = odometry()
    frames = [(i, drive[0][0]) for i in (0, 1, 2, 43, 44)]
    found = play(vo, frames)
    assert all(isinstance(m, Motion) for m in found[1:])
    np.testing.assert_array_equal(vo.trajectory.pose, np.eye(4))


def test_a_gap_while_moving_goes_on_at_the_last_velocity_for_a_while(metric, drive):
    pictures, _ = drive
    elsewhere = picture(pose(rotation_from_vector([0, 1.5, 0]), [0, 0, 20.0]))
    metric_drive(metric, enumerate(pictures[:15]))
    pose_before, spread = metric.trajectory.pose.copy(), metric.trajectory.covariance[0, 0]
    (gap,) = metric_drive(metric, [(40, elsewhere)])
    assert gap.reason is Reason.GAP and gap.starts
    ahead = np.linalg.norm(metric.trajectory.pose[:3, 3] - pose_before[:3, 3])
    assert ahead == pytest.approx(10 * STEP, rel=0.2)  # max_gap of a second
    assert metric.trajectory.covariance[0, 0] > spread + 1.0


def test_images_of_another_camera(metric, drive):
    pictures, places = drive
    other = picture(pose(rotation_from_vector([0, 1.5, 0]), [0, 0, 20.0]))
    blank = np.zeros((4, 4, 3), np.uint8)
    results = []
    for i, image in enumerate(pictures):
        stamp = (10 + i) * PERIOD
        if i in (8, 9, 15):
            results.append(metric.step(blank, stamp + 1000, CAMERA, other, 'rear'))
        results.append(metric.step(blank, stamp, CAMERA, image, 'front'))
    missed = [r for r in results[1:] if isinstance(r, Missed)]
    assert [m.reason for m in missed] == [Reason.OTHER_CAMERA] * 3
    assert "frame 'rear' among those of 'front'" in missed[0].text
    check_end(metric, places, metres=0.1 * STEP * 29)
    for i in range(STRANGERS):
        last = metric.step(blank, (50 + i) * PERIOD, CAMERA, other, 'rear')
    assert isinstance(last, Missed) and last.starts


@pytest.mark.parametrize('bad', ['fails', 'nan', 'invents motion'])
def test_a_bad_pose_network_changes_nothing(drive, bad):
    def network(previous, current):
        if bad == 'fails':
            raise RuntimeError('out of memory')
        return np.array([0, 0, 0, np.nan if bad == 'nan' else 5.0, 0, 0])

    pictures, places = drive
    vo = odometry(network=network)
    found = metric_drive(vo, enumerate(pictures))
    assert all(isinstance(m, Motion) for m in found[1:])
    assert bool(vo.network_problem) == (bad != 'invents motion')
    expected = odometry()
    play(expected, enumerate(pictures))
    late = [inverse(v.trajectory.pose)[:3, :3] for v in (vo, expected)]
    np.testing.assert_allclose(*late, atol=0.003)
    assert vo.tracked.scale.source == 'height'


def test_depth_that_comes_later_gives_the_scale(drive):
    pictures, places = drive
    vo = odometry(camera_height=0.0)
    for i, image in enumerate(pictures):
        play(vo, [(i, image)])
        if i >= 3:
            _, depth, labels = corridor.render(places[i - 3], TEXTURES)
            assert vo.tracked.add_depth(
                (i - 3 + 10) * PERIOD, depth.astype(np.float32), labels, CAMERA
            )
    assert not vo.tracked.add_depth(1, depth.astype(np.float32), labels, CAMERA)
    assert vo.tracked.scale.source == 'depth'
    # The first steps, before the scale was known, are of another length.
    motion = play(vo, [(30, picture(corridor.pose_at(30, STEP)))])[0]
    assert np.linalg.norm(motion.transform[:3, 3]) == pytest.approx(
        np.linalg.norm(moved([places[-1], corridor.pose_at(30, STEP)])[:3, 3]), rel=0.05
    )


def test_movable_things_are_left_out(drive):
    pictures, places = drive
    vo = odometry()
    for i, image in enumerate(pictures[:10]):
        play(vo, [(i, image)])
        labels = np.full(image.shape[:2], corridor.BUILDING, np.uint8)
        labels[:, :160] = corridor.CAR
        vo.tracked.add_depth((i + 10) * PERIOD, None, labels, CAMERA, movable=(corridor.CAR,))
    points = vo.tracked._corners.map
    left = points.corners[:, 0] < 150
    assert points.movable[points.alive & left].mean() > 0.9
    assert not points.movable[points.alive & (points.corners[:, 0] > 170)].any()


def test_what_is_missing_is_said():
    with pytest.raises(ValueError, match="refinement 'best' is unknown"):
        odometry(refinement='best')
    with pytest.raises(ValueError, match='without a pose network'):
        odometry(refinement='none')
    with pytest.raises(ValueError, match="needs the camera and the image at the camera's size"):
        odometry().step(None, 1)
