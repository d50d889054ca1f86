"""Judging without ground truth: worked out by hand, against the training losses, on real frames."""

import math

import cv2
import numpy as np
import pytest
import torch

from depth_ros.core.camera import CameraError, Intrinsics
from depth_ros.core.se3 import inverse, pose, rotation_from_vector
from depth_ros.evaluation.consistency import (
    accumulated_scale,
    depth_inconsistency,
    loop_closure,
    photometric_loss,
    scale_drift,
    warp,
)
from train.geometry import Projection, in_view, sample
from train.losses.consistency import geometry_consistency
from train.losses.photometric import PhotometricLoss

# At depth 8, a metre is a pixel.
CAMERA = Intrinsics(8.0, 8.0, 3.5, 2.5, 8, 6)
STREET = Intrinsics(180.0, 190.0, 78.0, 50.5, 160, 96)


def shifted(x=0.0, y=0.0, z=0.0):
    """T_previous_current of a camera that has not turned."""
    return pose(np.eye(3), [x, y, z])


def flat(depth, camera=CAMERA):
    return np.full((camera.height, camera.width), depth, np.float32)


def texture(camera=STREET, channels=3, seed=0):
    noise = np.random.default_rng(seed).uniform(0, 255, (camera.height, camera.width, channels))
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX).astype(
        np.uint8
    )


def hills(seed, camera=STREET):
    """A smooth depth between 4 and 12."""
    noise = np.random.default_rng(seed).uniform(size=(camera.height, camera.width))
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 8), None, 4, 12, cv2.NORM_MINMAX).astype(
        np.float32
    )


MOTION = pose(rotation_from_vector([0.01, -0.03, 0.02]), [0.3, -0.1, 0.5])


def as_tensor(image):
    """(H, W) or (H, W, C) as float (1, C, H, W)."""
    return torch.from_numpy(np.atleast_3d(image).transpose(2, 0, 1)[None].astype(np.float32))


def matrices(camera, motion):
    k = torch.tensor([[[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]]])
    return torch.from_numpy(motion[None].astype(np.float32)), k


# Warping


def test_a_camera_that_moved_to_the_right():
    ramp = np.tile(np.arange(8, dtype=np.float32), (6, 1))
    seen = warp(flat(8.0), CAMERA, shifted(x=2.0))
    np.testing.assert_allclose(seen.u, ramp + 2, atol=1e-5)
    np.testing.assert_allclose(seen.sample(ramp), np.minimum(ramp + 2, 7), atol=1e-5)
    assert seen.counts[:, :6].all() and not seen.counts[:, 6:].any()


def test_without_motion_every_pixel_is_itself():
    seen = warp(hills(1), STREET, np.eye(4))
    assert seen.counts.all()
    np.testing.assert_allclose(seen.sample(hills(2)), hills(2), atol=1e-3)


def test_points_without_depth_or_behind_the_camera_do_not_count():
    depth = flat(8.0)
    depth[0, :5] = np.nan, np.inf, -np.inf, 0, -1
    depth[1, 0] = 3
    seen = warp(depth, CAMERA, shifted(z=-3.0))
    assert not seen.counts[0, :5].any() and not seen.counts[1, 0]
    assert np.isnan(seen.depth[0, :5]).all() and np.isnan(seen.depth[1, 0])
    np.testing.assert_allclose(seen.depth[2:], 5.0)
    # Seen from farther ahead, what was at the edge is out of view.
    assert seen.counts[2:4, 3:5].all() and not seen.counts[5].any()
    # Not even where the motion puts them in front of the camera.
    assert not warp(depth, CAMERA, shifted(z=3.0)).counts[0, :5].any()


def test_wrong_sizes_and_motions_are_named():
    image = texture(CAMERA)
    with pytest.raises(CameraError, match='depth is 160x96, but the camera is 8x6'):
        photometric_loss(image, image, flat(1.0, STREET), CAMERA, np.eye(4))
    with pytest.raises(CameraError, match='image is 160x96'):
        photometric_loss(texture(), texture(), flat(1.0), CAMERA, np.eye(4))
    with pytest.raises(CameraError, match='previous depth is 160x96'):
        depth_inconsistency(flat(1.0, STREET), flat(1.0), CAMERA, np.eye(4))
    with pytest.raises(ValueError, match='uint8'):
        photometric_loss(image, image / 255, flat(1.0), CAMERA, np.eye(4))
    with pytest.raises(ValueError, match='not finite'):
        warp(flat(1.0), CAMERA, shifted(x=math.nan))
    with pytest.raises(ValueError, match='no pixel'):
        photometric_loss(image, image, flat(np.nan), CAMERA, np.eye(4))
    with pytest.raises(ValueError, match='no pixel'):
        depth_inconsistency(flat(1.0), flat(1.0), CAMERA, shifted(z=-2.0))


# Photometric error


@pytest.mark.parametrize('channels', [1, 3])
def test_photometric_loss_is_that_of_training(channels):
    previous, current = texture(channels=channels), texture(channels=channels, seed=1)
    depth = hills(2)
    source, target = as_tensor(previous) / 255, as_tensor(current) / 255
    grid, _, ahead = Projection(*matrices(STREET, MOTION), *depth.shape)(1 / as_tensor(depth))
    valid = ahead & in_view(grid)
    error = PhotometricLoss(target)
    # A grey image comes without a last axis.
    found = photometric_loss(previous.squeeze(), current.squeeze(), depth, STREET, MOTION)
    assert 0.5 < found.share < 1
    assert found.share == pytest.approx(valid.float().mean().item(), abs=1e-4)
    assert found.predicted == pytest.approx(
        error(sample(source, grid))[valid].mean().item(), abs=1e-4
    )
    assert found.static == pytest.approx(error(source)[valid].mean().item(), abs=2e-6)


def test_the_true_motion_explains_the_image():
    previous = texture()
    current = np.roll(previous, -3, axis=1)  # the camera moved by three pixels to the right
    right, wrong = (
        photometric_loss(
            previous, current, flat(9.0, STREET), STREET, shifted(x=x * 3 * 9 / STREET.fx)
        )
        for x in (1, -1)
    )
    assert right.predicted < 0.01 < 0.1 < right.static < wrong.predicted
    still = photometric_loss(previous, current, hills(0), STREET, np.eye(4))
    assert still.predicted == pytest.approx(still.static, abs=1e-5)
    assert photometric_loss(previous, previous, hills(0), STREET, np.eye(4)).static == 0


def test_windows_reaching_into_unknown_depth_do_not_count():
    previous, depth = texture(), flat(9.0, STREET)
    current = previous.copy()
    depth[40, 50] = np.nan
    # Nothing is sampled there. The pixel itself must not matter.
    previous[40, 50] = current[40, 50] = 0
    found = photometric_loss(previous, current, depth, STREET, np.eye(4))
    assert found.share == pytest.approx(1 - 9 / depth.size)
    assert found.predicted < 1e-5


# Depth inconsistency


def test_depths_that_differ_by_a_quarter():
    found = depth_inconsistency(flat(10.0), flat(8.0), CAMERA, np.eye(4))
    assert found.mean == pytest.approx(1 / 9)
    assert found.ratio == pytest.approx(1.25)
    assert found.share == 1


def test_driving_two_metres_towards_a_wall():
    found = depth_inconsistency(flat(10.0), flat(8.0), CAMERA, shifted(z=2.0))
    assert found.mean == pytest.approx(0, abs=1e-7)
    assert found.ratio == pytest.approx(1)


def test_unknown_previous_depth_does_not_count():
    previous = flat(8.0)
    previous[:3, 3], previous[3:, 3] = np.nan, 0
    found = depth_inconsistency(previous, flat(8.0), CAMERA, shifted(x=0.5))
    # Between columns 2 and 3, and 3 and 4, lies the unknown one; column 7 is out of view.
    assert found.share == pytest.approx(5 / 8)
    assert found.mean == pytest.approx(0, abs=1e-7)


def test_depth_inconsistency_is_that_of_training():
    previous, depth = hills(3), hills(4)
    expected, _ = geometry_consistency(
        1 / as_tensor(depth), 1 / as_tensor(previous), *matrices(STREET, MOTION)
    )
    found = depth_inconsistency(previous, depth, STREET, MOTION)
    assert found.mean == pytest.approx(expected.item(), abs=1e-4)


# Loops


def test_loop_that_closes():
    first, second = (
        pose(rotation_from_vector(r), t)
        for r, t in (([0, 1.5, 0], [0, 0, 3]), ([0.2, 0, 0.1], [1, 0, 2]))
    )
    found = loop_closure(first, second, first @ second)
    assert found == pytest.approx((0, 0), abs=1e-7)


def test_loop_that_does_not_close():
    # Three metres ahead, a right turn, a metre ahead: the second step leads to the right.
    first = pose(rotation_from_vector([0, math.pi / 2, 0]), [0, 0, 3])
    direct = pose(rotation_from_vector([0, math.pi / 2 + math.radians(2), 0]), [1, 0.3, 3.4])
    found = loop_closure(first, shifted(z=1.0), direct)
    assert found.translation == pytest.approx(0.5 / 4)
    assert found.rotation == pytest.approx(2)


def test_loops_that_cannot_be_judged():
    with pytest.raises(ValueError, match='do not move'):
        loop_closure(np.eye(4), np.eye(4), shifted(x=1.0))
    with pytest.raises(ValueError, match='not finite'):
        loop_closure(shifted(x=1.0), shifted(x=math.inf), np.eye(4))


# Scale


def test_spread_of_the_scale():
    found = scale_drift([0, 1, 2], [3.0, 2.0, 1.0])
    assert found.median == 2
    assert found.spread == pytest.approx(math.sqrt(2 / 3) / 2)


@pytest.mark.parametrize('count', [2, 3, 100, 101])
def test_a_tenth_more_each_minute(count):
    stamps = np.sort(np.random.default_rng(0).uniform(0, 90, count))
    found = scale_drift(1e9 + stamps, 7 * 1.1 ** (stamps / 60))
    assert found.drift == pytest.approx(10, abs=1e-3)


def test_wild_frames_do_not_tell_the_drift():
    stamps = np.arange(0, 60, 0.1)
    scales = 1.1 ** (stamps / 60)
    scales[450:550] = 30.0
    assert scale_drift(stamps, scales).drift == pytest.approx(10)


def test_drift_without_ground_truth():
    # The same wall, nearer by a percent in each of the frames.
    depths = [flat(8.0 * 0.99**i) for i in range(31)]
    ratios = [
        depth_inconsistency(a, b, CAMERA, np.eye(4)).ratio
        for a, b in zip(depths, depths[1:], strict=False)
    ]
    scales = accumulated_scale(ratios)
    np.testing.assert_allclose(scales, 0.99 ** -np.arange(31.0), rtol=1e-5)
    # Ten frames a second are six hundred a minute.
    slow = scale_drift(np.arange(31) * 2.0, scales)
    assert slow.drift == pytest.approx(100 * (0.99**-30 - 1), rel=1e-4)


@pytest.mark.parametrize(
    'stamps, scales, problem',
    [
        ([0], [1.0], 'two or more'),
        ([0, 1], [1.0, 1.0, 1.0], 'equally many'),
        ([0, 0], [1.0, 1.0], 'increase'),
        ([0, math.nan], [1.0, 1.0], 'finite and increase'),
        ([0, 1], [1.0, math.nan], 'finite and above 0'),
        ([0, 1], [1.0, 0.0], 'above 0'),
    ],
)
def test_series_that_are_refused(stamps, scales, problem):
    with pytest.raises(ValueError, match=problem):
        scale_drift(stamps, scales)


# A real walk with measured depth and poses


def test_true_depth_and_motion_of_a_real_walk(data_dir):
    folder = data_dir / 'indoor_handheld'
    if not folder.is_dir():
        pytest.skip(f'{data_dir} has no indoor_handheld')
    (fx, _, cx), (_, fy, cy), _ = np.loadtxt(folder / 'K.txt')
    camera = Intrinsics(fx, fy, cx, cy, 540, 360)
    poses = np.loadtxt(folder / 'poses.txt').reshape(-1, 4, 4)
    paths = sorted((folder / 'images').glob('*.jpg'))
    errors, ratios, inconsistencies = [], [], []
    for i in range(40, 80, 8):
        images = [cv2.imread(str(p)) for p in paths[i : i + 2]]
        depths = [
            cv2.imread(str(folder / 'depth' / f'{p.stem}.png'), cv2.IMREAD_UNCHANGED) * 1e-3
            for p in paths[i : i + 2]
        ]
        before, now = (np.where(d > 0, d, np.nan).astype(np.float32) for d in depths)
        motion = inverse(poses[i]) @ poses[i + 1]
        errors.append(
            [
                photometric_loss(*images, now, camera, motion),
                photometric_loss(*images, now, camera, inverse(motion)),
            ]
        )
        inconsistencies.append(depth_inconsistency(before, now, camera, motion))
        ratios.append(inconsistencies[-1].ratio)
    for right, wrong in errors:
        assert right.predicted < 0.6 * right.static
        assert wrong.predicted > wrong.static
    assert max(i.mean for i in inconsistencies) < 0.02
    np.testing.assert_allclose(ratios, 1, atol=0.01)
