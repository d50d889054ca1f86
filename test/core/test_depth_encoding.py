"""Depth in millimetres and as compressedDepth, and back."""

import types

import numpy as np
import pytest

from depth_ros.core.depth_encoding import compressed_depth, millimetres
from depth_ros.core.images import decode_depth

DEPTH = np.array([[np.nan, 0.2, 1.0004, 1.0006], [10.0, 65.5354, 65.536, 300.0]], np.float32)


def test_millimetres_are_rounded_and_end_at_65_metres():
    expected = [[0, 200, 1000, 1001], [10000, 65535, 0, 0]]
    np.testing.assert_array_equal(millimetres(DEPTH), expected)
    out = np.full(DEPTH.shape, 7, np.uint16)
    assert millimetres(DEPTH, out) is out and out[0, 0] == 0


def decoded(depth, encoding):
    data = compressed_depth(depth, 300.0)
    message = types.SimpleNamespace(format=f'{encoding}; compressedDepth png', data=data)
    return decode_depth(message)


def test_compressed_metres_keep_all_distances_to_a_step():
    found = decoded(DEPTH, '32FC1')
    assert np.isnan(found[0, 0])
    valid = np.isfinite(DEPTH)
    step = DEPTH[valid] ** 2 / 10100
    assert (abs(found[valid] - DEPTH[valid]) <= 0.51 * step + 1e-3).all()


def test_compressed_millimetres_are_exact():
    found = decoded(millimetres(DEPTH), '16UC1')
    np.testing.assert_allclose(found[0, 1:], [0.2, 1.0, 1.001], rtol=1e-6)
    assert np.isnan(found[[0, 1, 1], [0, 2, 3]]).all()


@pytest.mark.parametrize('far', [5.0, 80.0])
def test_nothing_is_farther_than_far(far):
    data = compressed_depth(np.full((2, 2), far + 1, np.float32), far)
    message = types.SimpleNamespace(format='32FC1; compressedDepth png', data=data)
    found = decode_depth(message)
    assert np.isnan(found).all() or (found <= far * 1.01).all()
