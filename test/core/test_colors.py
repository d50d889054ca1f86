"""Colours of depth, errors and classes, by hand."""

import numpy as np
import pytest

from depth_ros.core.colors import (
    DEPTH_PALETTE,
    ERROR_PALETTE,
    WORST_ERROR,
    DepthColors,
    color_depth,
    color_error,
    color_labels,
    depth_levels,
    error_levels,
    label_palette,
)

COLORS = {0: (128, 64, 128), 1: (70, 130, 180)}


def test_depth_colors():
    depth = np.array([[2.0, 4.0, 1e9, np.nan]], np.float32)
    near, middle, far, invalid = color_depth(depth, 2.0)[0].astype(int)
    assert near[0] > near[2] and far[2] >= far[0] and far.sum() < middle.sum()
    assert invalid.tolist() == [0, 0, 0]
    assert np.array_equal(color_depth(depth, 5.0)[0, 0], near)  # nearer than near


def test_error_colors():
    error = np.array([[0.0, 0.25, 0.5, 3.0, np.nan]], np.float32)
    none, some, much, more, unknown = color_error(error, np.full((2, 10, 3), 90, np.uint8))[
        0
    ].astype(int)
    assert none.sum() > some.sum() > much.sum() and np.array_equal(much, more)
    assert unknown.tolist() == [30, 30, 30]  # the camera's image, darker


def test_label_colors():
    labels = np.array([[0, 1, 255]], np.uint8)
    assert color_labels(labels, COLORS).tolist() == [[[128, 64, 128], [70, 130, 180], [0, 0, 0]]]
    over = color_labels(labels, COLORS, np.full((2, 6, 3), 200, np.uint8))
    assert over[0, 2].tolist() == [200, 200, 200]
    assert over[0, 0].tolist() == pytest.approx(
        [0.65 * c + 0.35 * 200 for c in (128, 64, 128)], abs=1
    )


def test_labels_without_a_class_show_the_image():
    labels = np.array([[0, 7]], np.uint8)
    over = color_labels(labels, {7: (255, 0, 0)}, np.full((1, 2, 3), 100, np.uint8))
    assert over[0].tolist() == [[100, 100, 100], [201, 35, 35]]
    assert label_palette(COLORS)[[0, 1, 7]].tolist() == [[128, 64, 128], [70, 130, 180], [0, 0, 0]]


def test_levels_by_hand():
    depth = np.array([[1.0, 2.0, 4.0, 254.0 * 4, np.inf, np.nan]], np.float32)
    assert depth_levels(depth, 2.0).tolist() == [[255, 255, 128, 1, 1, 0]]
    error = np.array([[0.0, WORST_ERROR / 2, WORST_ERROR, 9.0, np.nan]])
    assert error_levels(error).tolist() == [[1, 128, 255, 255, 0]]
    assert error_levels(error, worst=2 * WORST_ERROR)[0, 2] == 128
    for palette in (DEPTH_PALETTE, ERROR_PALETTE):
        assert not palette[0].any() and palette[1:].any(axis=1).all()


def test_errors_without_an_image_are_black_where_unknown():
    found = color_error(np.array([[0.1, np.nan]]))
    assert found[0, 1].tolist() == [0, 0, 0] and found[0, 0].any()


def test_near_end_follows_the_scene_slowly():
    colors = DepthColors()
    near, far = np.full((8, 8), 2, np.float32), np.full((8, 8), 10, np.float32)
    assert colors.follow(near) == pytest.approx(2)
    assert colors.follow(far) == pytest.approx(1 / (0.95 / 2 + 0.05 / 10))
    last = colors.follow(np.full((8, 8), np.nan, np.float32))  # says nothing of the scene
    assert last == pytest.approx(1 / (0.95 / 2 + 0.05 / 10))
    np.testing.assert_array_equal(colors(near), color_depth(near, colors.follow(near)))
