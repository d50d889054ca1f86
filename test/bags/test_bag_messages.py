"""Depth, labels and poses of recorded messages come back exactly."""

import struct

import numpy as np
import pytest
from support.bag_files import write
from support.bag_messages import (
    DEPTH,
    LABELS,
    RGB,
    TYPES,
    compressed,
    header,
    image,
    stamped,
)

from depth_ros.bags.messages import (
    COMPRESSED_IMAGE,
    ODOMETRY,
    POSE,
    POSE_WITH_COVARIANCE,
    decode_depth,
    decode_labels,
    decode_pose,
)
from depth_ros.bags.reader import Bag


def test_depth_in_millimetres_and_metres():
    millimetres = (DEPTH * 1000).astype(np.uint16)
    millimetres[0, 0] = 0
    lead = struct.pack('<iff', 0, 0, 0)
    for message in (
        image(millimetres, '16UC1', padding=2),
        compressed(millimetres, '.png', '16UC1; compressedDepth png', lead=lead),
        compressed(millimetres, '.png', '16UC1; compressedDepth', lead=lead),
    ):
        depth = decode_depth(message)
        assert depth.dtype == np.float32 and np.isnan(depth[0, 0])
        assert np.abs(depth - DEPTH).ravel()[1:].max() < 1.01e-3
    metres = DEPTH.copy()
    metres[0, :3] = 0, np.inf, np.nan
    decoded = decode_depth(image(metres, '32FC1'))
    assert np.isnan(decoded[0, :3]).all() and np.array_equal(decoded[1:], DEPTH[1:])


def test_quantised_float_depth_follows_the_transport_plugin():
    # compressed_depth_image_transport: code = A / depth + B, 0 = invalid.
    a, b = 100.0 * 101.0, 1.0 - 101.0
    codes = np.round(a / DEPTH + b).astype(np.uint16)
    codes[2, 3] = 0
    lead = struct.pack('<iff', 0, a, b)
    depth = decode_depth(compressed(codes, '.png', '32FC1; compressedDepth png', lead))
    assert np.isnan(depth[2, 3])
    valid = np.isfinite(depth)
    assert valid.sum() == DEPTH.size - 1
    # Half a code step in inverse depth.
    assert np.all(np.abs(depth - DEPTH)[valid] <= 0.51 * DEPTH[valid] ** 2 / a * 1.02)


@pytest.mark.parametrize('pixels', [np.zeros((4, 6), np.uint8), np.zeros((4, 6, 3), np.uint16)])
def test_compressed_depth_of_another_kind(pixels):
    message = compressed(pixels, '.png', '16UC1; compressedDepth png', bytes(12))
    with pytest.raises(ValueError, match='not uint16'):
        decode_depth(message)
    message.data = message.data[:7]
    with pytest.raises(ValueError, match='cannot be decoded'):
        decode_depth(message)


def test_labels():
    for message in (image(LABELS, 'mono8', padding=3), compressed(LABELS, '.png', 'mono8; png')):
        assert np.array_equal(decode_labels(message), LABELS)
    with pytest.raises(ValueError, match='publish mono8'):
        decode_labels(compressed(RGB, '.png', 'png'))


def test_big_endian_depth():
    message = image(DEPTH.astype('>f4'), '32FC1')
    message.is_bigendian = 1
    assert np.array_equal(decode_depth(message), DEPTH)


def test_bad_pictures():
    short = image(DEPTH, '32FC1')
    short.data = short.data[:-1]
    with pytest.raises(ValueError, match='8x6 32FC1 with step 32 has 191 bytes'):
        decode_depth(short)
    empty = TYPES[COMPRESSED_IMAGE](header(1), 'mono8; png', np.zeros(9, np.uint8))
    with pytest.raises(ValueError, match='9 bytes cannot be decoded'):
        decode_labels(empty)
    with pytest.raises(ValueError, match="'mono16' is not supported"):
        decode_depth(image(LABELS.astype(np.uint16), 'mono16'))
    with pytest.raises(ValueError, match="'rgb8' is not supported"):
        decode_labels(image(RGB, 'rgb8'))


@pytest.mark.parametrize('msgtype', [ODOMETRY, POSE, POSE_WITH_COVARIANCE])
def test_poses(tmp_path, msgtype):
    # 2 atan2(0.6, 0.8) about z, whose cosine is 0.28 and whose sine is 0.96.
    turned = [[0.28, -0.96, 0, 1], [0.96, 0.28, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]]
    with Bag(write(tmp_path / 'b', {'/p': stamped(msgtype)})) as bag:
        assert np.allclose(decode_pose(bag.first('/p')), turned, atol=1e-12)
    # One that is not quite of unit length is scaled, not believed.
    loose = decode_pose(stamped(msgtype, (0.0, 0.0, 0.62, 0.826667)))
    assert np.allclose(loose[:3, :3] @ loose[:3, :3].T, np.eye(3), atol=1e-12)
    with pytest.raises(ValueError, match='no direction'):
        decode_pose(stamped(msgtype, (0.0, 0.0, 0.0, 0.0)))
    for bad in (stamped(msgtype, x=np.nan), stamped(msgtype, (0.0, 0.0, np.inf, 1.0))):
        with pytest.raises(ValueError, match='finite'):
            decode_pose(bad)
