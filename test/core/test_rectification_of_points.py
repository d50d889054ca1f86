"""Rectification by camera_info, beside OpenCV's own projection of points."""

import types

import cv2
import numpy as np
import pytest

from depth_ros.core.camera import CameraError, intrinsics_from_info
from depth_ros.core.rectification import Rectification

K = np.array([[300.0, 0, 159.5], [0, 300.0, 119.5], [0, 0, 1]])
COEFFICIENTS = {
    'plumb_bob': [-0.2, 0.05, 0.001, -0.001, 0.0],
    'rational_polynomial': [-0.2, 0.05, 0.001, -0.001, 0.0, 0.01, 0.0, 0.0],
    'equidistant': [0.05, -0.01, 0.0, 0.0],
}


def info_of(model, coefficients, size=(320, 240), roi=(0, 0, 0, 0), focal=250.0):
    x, y, width, height = roi
    p = np.array([[focal, 0, 150.0, 0], [0, focal, 110.0, 0], [0, 0, 1, 0]])
    return types.SimpleNamespace(
        **{'width': size[0], 'height': size[1], 'distortion_model': model, 'd': coefficients},
        **{'k': K.ravel(), 'r': np.eye(3).ravel(), 'p': p.ravel()},
        roi=types.SimpleNamespace(x_offset=x, y_offset=y, width=width, height=height),
    )


def spot(points, model, coefficients):
    """Pixels of the raw image where points in the camera's frame appear."""
    if model == 'equidistant':
        found = cv2.fisheye.projectPoints(
            points[None], np.zeros(3), np.zeros(3), K, np.array(coefficients)
        )[0]
    else:
        found = cv2.projectPoints(points, np.zeros(3), np.zeros(3), K, np.array(coefficients))[0]
    return found.reshape(-1, 2)


@pytest.mark.parametrize('model', COEFFICIENTS)
@pytest.mark.parametrize(
    ('scale', 'roi'), [(1, (0, 0, 0, 0)), (0.5, (0, 0, 0, 0)), (1, (60, 40, 200, 160))]
)
def test_points_come_where_p_says(model, scale, roi):
    """A raw image with spots, whole, binned by two, or cut to a region."""
    points = np.array([[-0.15, 0.1, 1], [0.1, -0.12, 1], [0.0, 0.02, 1]])
    raw = np.zeros((240, 320), np.float32)
    y, x = np.mgrid[:240, :320]
    for u, v in spot(points, model, COEFFICIENTS[model]):
        raw += np.exp(-((x - u) ** 2 + (y - v) ** 2) / 8)
    left, top, width, height = roi
    if width:
        raw = raw[top : top + height, left : left + width]
    if scale != 1:
        raw = cv2.resize(raw, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    info = info_of(model, COEFFICIENTS[model], roi=roi)
    for fast in (False, True):
        found = Rectification(info, fast=fast).rectify(raw)
        assert found.shape == raw.shape
        camera = intrinsics_from_info(info, *raw.shape[1::-1])
        for px, py, _ in points:
            u, v = camera.fx * px + camera.cx, camera.fy * py + camera.cy
            row, column = round(v), round(u)
            near = found[row - 4 : row + 5, column - 4 : column + 5]
            weights = near / near.sum()
            center = (weights.sum(0) @ np.arange(-4, 5), weights.sum(1) @ np.arange(-4, 5))
            np.testing.assert_allclose((column + center[0], row + center[1]), (u, v), atol=0.3)


def test_an_image_without_distortion_is_the_same():
    image = np.zeros((240, 320, 3), np.uint8)
    assert Rectification(info_of('plumb_bob', [0.0] * 5)).rectify(image) is image


@pytest.mark.parametrize(
    ('model', 'coefficients', 'cause'),
    [('magic', [0.1], "'magic'"), ('plumb_bob', [0.1, 0.1, 0.1], '3 coefficients of plumb_bob')],
)
def test_what_cannot_be_rectified_is_refused(model, coefficients, cause):
    with pytest.raises(CameraError, match=cause):
        Rectification(info_of(model, coefficients)).rectify(np.zeros((240, 320, 3), np.uint8))
