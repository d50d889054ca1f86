import math
from types import SimpleNamespace

import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo

from depth_ros.core.camera import (
    CameraError,
    ImageFit,
    Intrinsics,
    check_intrinsics,
    intrinsics_from_info,
    project,
    reproject,
    scale_intrinsics,
    shown_part,
)
from depth_ros.core.se3 import pose, rotation_from_vector

CAMERA = Intrinsics(100.0, 120.0, 49.5, 29.5, 100, 60)


def info(width=100, height=60, fx=100.0, fy=120.0, cx=49.5, cy=29.5, rectified=None):
    """camera_info with these values in K, and in P those of ``rectified``, or none."""
    message = CameraInfo(width=width, height=height)
    message.k = [fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0]
    if rectified is not None:
        fx, fy, cx, cy = rectified
        message.p = [fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    return message


def test_resizing_keeps_the_directions_of_the_image_borders():
    small = CAMERA.resized(50, 15)
    # The image spans -0.5 .. width - 0.5; the tangents of its borders must not change.
    assert (-0.5 - small.cx) / small.fx == pytest.approx((-0.5 - 49.5) / 100)
    assert (49.5 - small.cx) / small.fx == pytest.approx((99.5 - 49.5) / 100)
    assert (14.5 - small.cy) / small.fy == pytest.approx((59.5 - 29.5) / 120)
    assert (small.fx, small.fy) == (50, 30)


def test_intrinsics_and_their_matrix():
    np.testing.assert_array_equal(CAMERA.matrix, [[100, 0, 49.5], [0, 120, 29.5], [0, 0, 1]])
    assert Intrinsics.from_matrix(CAMERA.matrix, 100, 60) == CAMERA
    small = CAMERA.resized(50, 15)
    np.testing.assert_array_equal(scale_intrinsics(CAMERA.matrix, 0.5, 0.25), small.matrix)


def test_rays_by_hand():
    x, y = Intrinsics(2.0, 4.0, 1.0, 0.0, 3, 2).rays()
    np.testing.assert_allclose(x, [-0.5, 0, 0.5])  # (0 - 1) / 2 ...
    np.testing.assert_allclose(y, [0, 0.25])  # (1 - 0) / 4


def test_projection_by_hand():
    camera = Intrinsics(2.0, 4.0, 1.0, 0.5, 3, 2)
    one_back = np.eye(4)
    one_back[2, 3] = 1.0
    u, v, depth = project(np.array([[1.0, -1, 3], [0, 0, -1.5]]), camera.matrix @ one_back[:3])
    np.testing.assert_allclose(depth, [4, -0.5])
    assert (u[0], v[0]) == (2 * 1 / 4 + 1, 4 * -1 / 4 + 0.5)


def test_reprojection_is_the_projection_of_every_pixel():
    camera = Intrinsics(8.0, 9.0, 3.5, 2.5, 8, 6)
    depth = np.random.default_rng(0).uniform(2, 9, (6, 8)).astype(np.float32)
    motion = pose(rotation_from_vector([0.05, -0.1, 0.02]), [0.3, -0.2, 0.5])
    x, y = camera.rays()
    points = np.stack([depth * x, depth * y[:, None], depth], -1).reshape(-1, 3)
    u, v, z = project(points, camera.matrix @ motion[:3])
    found = reproject(depth, camera, motion)
    np.testing.assert_allclose(np.reshape(found, (3, -1)), [u * z, v * z, z], rtol=1e-5)
    # Without a motion each pixel stays.
    x, _, z = reproject(depth, camera, np.eye(4))
    np.testing.assert_allclose(x / z, np.arange(8.0)[None].repeat(6, 0), atol=1e-5)


def test_rays_of_every_second_pixel():
    x, y = CAMERA.rays(2)
    all_x, all_y = CAMERA.rays()
    np.testing.assert_array_equal(x, all_x[::2])
    np.testing.assert_array_equal(y, all_y[::2])


def test_intrinsics_come_from_p_of_a_rectified_camera_else_from_k():
    message = info(rectified=(90.0, 110.0, 48.0, 28.0))
    assert intrinsics_from_info(message, 100, 60) == Intrinsics(90, 110, 48, 28, 100, 60)
    assert intrinsics_from_info(info(), 100, 60) == CAMERA


def test_intrinsics_of_a_binned_image_are_resized():
    assert intrinsics_from_info(info(), 50, 30) == CAMERA.resized(50, 30)
    # 1242x375 halved is 621x187, not exactly the same aspect ratio.
    assert intrinsics_from_info(info(1242, 375), 621, 187).width == 621


def test_intrinsics_of_a_region_of_interest_are_moved():
    message = info()
    message.roi.x_offset, message.roi.y_offset = 10, 20
    message.roi.width, message.roi.height = 40, 20
    camera = intrinsics_from_info(message, 40, 20)
    assert camera == Intrinsics(100, 120, 39.5, 9.5, 40, 20)
    message.binning_x = message.binning_y = 2
    assert intrinsics_from_info(message, 20, 10) == camera.resized(20, 10)


@pytest.mark.parametrize('values', [{'fx': 0.0}, {'fy': -1.0}, {'fx': math.nan}, {'cx': math.inf}])
def test_unusable_intrinsics_are_refused(values):
    with pytest.raises(CameraError, match='no usable intrinsics.*calibrate'):
        intrinsics_from_info(info(**values), 100, 60)


def test_calibration_of_another_view_is_refused_naming_both_sizes():
    with pytest.raises(CameraError, match='100x60.*100x80'):
        intrinsics_from_info(info(), 100, 80)
    with pytest.raises(CameraError, match='0x60'):
        intrinsics_from_info(info(width=0), 100, 60)


def test_stretch_takes_the_whole_image():
    model = Intrinsics(30.0, 30.0, 24.5, 14.5, 50, 30)
    fit = ImageFit.create(CAMERA, model)
    assert (fit.x, fit.y, fit.width, fit.height) == (0, 0, 100, 60)
    assert fit.network == CAMERA.resized(50, 30)  # fx = 50, fy = 60
    assert fit.depth_factor == pytest.approx(math.sqrt(50 / 30 * 60 / 30))
    assert fit.anisotropy == pytest.approx(60 / 50)


def test_depth_factor_of_square_pixels_is_the_ratio_of_focal_lengths():
    camera = Intrinsics(720.0, 720.0, 620.0, 187.0, 1242, 375)
    model = camera.resized(640, 192)
    twice = Intrinsics(1440.0, 1440.0, 620.0, 187.0, 1242, 375)
    assert ImageFit.create(camera, model).depth_factor == pytest.approx(1)
    assert ImageFit.create(twice, model).depth_factor == pytest.approx(2)


def test_crop_keeps_the_pixel_aspect_and_places_the_principal_point():
    # A wide network on a tall camera: rows are cut off.
    camera = Intrinsics(500.0, 500.0, 320.0, 240.0, 640, 480)
    model = Intrinsics(200.0, 200.0, 159.5, 39.5, 320, 96)  # horizon above the middle
    fit = ImageFit.create(camera, model, 'crop')
    assert (fit.width, fit.height, fit.x) == (640, 192, 0)
    assert fit.anisotropy == pytest.approx(1)
    assert fit.network.cy == pytest.approx(39.5, abs=0.5)
    assert fit.network.fx == pytest.approx(250) and fit.network.fy == pytest.approx(250)
    # A narrow network on a wide camera: columns are cut off.
    narrow = ImageFit.create(camera, Intrinsics(50.0, 50.0, 15.5, 47.5, 32, 96), 'crop')
    assert (narrow.width, narrow.height) == (160, 480)
    assert narrow.network.cx == pytest.approx(15.5, abs=0.2)


def test_crop_stays_in_the_image():
    camera = Intrinsics(500.0, 500.0, 320.0, 20.0, 640, 480)  # principal point near the top
    fit = ImageFit.create(camera, Intrinsics(200.0, 200.0, 159.5, 47.5, 320, 96), 'crop')
    assert fit.y == 0 and fit.y + fit.height <= 480


def test_unknown_fit_is_refused():
    with pytest.raises(ValueError, match="'zoom'.*auto, stretch, crop"):
        ImageFit.create(CAMERA, CAMERA, 'zoom')


def test_images_go_to_the_network_and_back_onto_their_region():
    camera = Intrinsics(500.0, 500.0, 319.5, 239.5, 640, 480)
    model = Intrinsics(250.0, 250.0, 159.5, 47.5, 320, 96)
    fit = ImageFit.create(camera, model, 'crop')
    # A smooth ramp survives shrinking and enlarging; the network's pixel (0, 0) covers four.
    ramp = np.repeat((np.arange(480) // 2).astype(np.uint8)[:, None, None], 640, 1).repeat(3, 2)
    small = np.zeros((96, 320, 3), np.uint8)
    fit.to_network(ramp, small)
    np.testing.assert_array_equal(small[:, 7, 1], ramp[fit.y : fit.y + 192 : 2, 0, 0])

    back = np.full((480, 640), np.nan, np.float32)
    fit.to_camera(small[..., 0].astype(np.float32), back)
    inside = slice(fit.y, fit.y + fit.height)
    assert np.isnan(np.delete(back, np.r_[inside], axis=0)).all()
    assert np.abs(back[inside, 5] - ramp[inside, 5, 0]).max() <= 1


@pytest.mark.parametrize('shape', [(96, 320), (96, 320, 3)])
@pytest.mark.parametrize(
    'mode, size', [('stretch', (640, 480)), ('crop', (640, 480)), ('stretch', (333, 70))]
)
def test_nearest_takes_the_pixel_that_the_centre_falls_on(mode, size, shape):
    width, height = size
    camera = Intrinsics(500.0, 500.0, (width - 1) / 2, (height - 1) / 2, width, height)
    fit = ImageFit.create(camera, Intrinsics(250.0, 250.0, 159.5, 47.5, 320, 96), mode)
    image = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    out = np.full((height, width, *shape[2:]), 255, np.uint8)
    fit.to_camera(image, out, nearest=True)

    inside = np.s_[fit.y : fit.y + fit.height, fit.x : fit.x + fit.width]
    row = (np.arange(fit.height) + 0.5) * 96 / fit.height
    column = (np.arange(fit.width) + 0.5) * 320 / fit.width
    clear = np.ix_(row % 1 != 0, column % 1 != 0)  # a centre on a border may go either way
    expected = image[np.ix_(row.astype(int), column.astype(int))]
    np.testing.assert_array_equal(out[inside][clear], expected[clear])
    out[inside] = 255
    assert (out == 255).all()  # nothing outside the region was touched


def test_shrinking_averages_over_the_pixels_that_it_merges():
    camera = Intrinsics(500.0, 500.0, 319.5, 239.5, 640, 480)
    fit = ImageFit.create(camera, camera.resized(80, 60))
    checker = (255 * (np.indices((480, 640)).sum(0) % 2)).astype(np.uint8)
    small = np.zeros((60, 80, 3), np.uint8)
    fit.to_network(np.repeat(checker[..., None], 3, 2), small)
    assert small.min() >= 127 and small.max() <= 129


# Which fit, and which intrinsics can be


@pytest.mark.parametrize(
    'size, crops',
    [
        ((1242, 375), False),  # as in training
        ((1280, 720), False),
        ((640, 305), False),
        ((540, 360), True),
        ((640, 480), True),
        ((480, 640), True),
        ((1280, 128), True),  # ten to one
    ],
)
def test_auto_crops_where_stretching_distorts_much(size, crops):
    """Square pixels, before a network of 640x192 that was trained with square pixels."""
    width, height = size
    camera = Intrinsics(0.6 * width, 0.6 * width, width / 2, height / 2, width, height)
    model = Intrinsics(371.2, 371.2, 320, 90, 640, 192)
    found = ImageFit.create(camera, model, 'auto')
    assert found == ImageFit.create(camera, model, 'crop' if crops else 'stretch')
    assert found.anisotropy <= 2


def test_field_of_view():
    """A right angle across, and what is left of it in a quarter of the height."""
    camera = Intrinsics(50, 50, 49.5, 12, 100, 25)
    assert camera.field_of_view[0] == pytest.approx(90)
    assert camera.field_of_view[1] == pytest.approx(np.degrees(2 * np.arctan(0.25)))


@pytest.mark.parametrize(
    'numbers, reason',
    [
        ((-500, 500, 320, 240), 'positive'),
        ((500, 0, 320, 240), 'positive'),
        ((float('nan'), 500, 320, 240), 'positive'),
        ((0.78, 1.04, 0.5, 0.5), 'divided by the size of the image: give pixels'),
        ((320, 240, 500, 500), 'swapped'),
        ((1000, 1000, 640, 480), 'another resolution'),
        ((500, 500, -5, 240), 'outside of the image'),
        ((70, 70, 320, 240), 'field of view'),
        ((9000, 9000, 320, 240), 'field of view'),
        ((2000, 500, 320, 240), 'times as high as wide'),
    ],
)
def test_intrinsics_that_cannot_be(numbers, reason):
    with pytest.raises(CameraError, match=reason):
        check_intrinsics(Intrinsics(*numbers, 640, 480))
    message = info(640, 480, *map(float, numbers))
    with pytest.raises(CameraError, match='camera_info holds'):
        intrinsics_from_info(message, 640, 480)


def test_intrinsics_of_real_cameras_are_neither_refused_nor_odd():
    for numbers in (
        (721.5, 721.5, 609.6, 172.9, 1242, 375),
        (718.9, 718.9, 607.2, 185.2, 1241, 376),
        (495.6, 495.5, 269.5, 169.2, 540, 360),
        (525, 525, 319.5, 239.5, 640, 480),
        (1330, 1330, 480, 640, 960, 1280),
        (285.2, 285.2, 318, 180, 640, 360),
    ):
        assert not check_intrinsics(Intrinsics(*numbers))


def test_the_part_of_an_image_that_a_view_shows():
    camera = Intrinsics(300, 280, 330, 250, 640, 480)
    model = Intrinsics(200, 200, 159.5, 47.5, 320, 96)
    for mode in ('stretch', 'crop'):
        fit = ImageFit.create(camera, model, mode)
        rows, columns = shown_part(camera, fit.network, 640, 480)
        assert (rows.start, rows.stop) == (fit.y, fit.y + fit.height)
        assert (columns.start, columns.stop) == (fit.x, fit.x + fit.width)
        rows, columns = shown_part(camera, fit.network, 320, 240)  # of a map at half the size
        assert abs(rows.start - fit.y / 2) <= 0.5 and abs(columns.stop * 2 - fit.x - fit.width) <= 1


@pytest.mark.parametrize('size', [(0, 48), (64, 0), (0, 0)])
def test_an_image_without_pixels_has_no_camera(size):
    info = SimpleNamespace(
        **{'width': 64, 'height': 48, 'p': [0.0] * 12},
        k=[50.0, 0, 31.5, 0, 50.0, 23.5, 0, 0, 1],
        roi=SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0),
    )
    with pytest.raises(CameraError, match='empty'):
        intrinsics_from_info(info, *size)
