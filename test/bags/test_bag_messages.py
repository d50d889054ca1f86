"""Depth, labels and poses of recorded messages come back exactly."""

import numpy as np
import pytest
from support.bag_files import write
from support.bag_messages import (
    stamped,
)

from depth_ros.bags.messages import (
    ODOMETRY,
    POSE,
    POSE_WITH_COVARIANCE,
    decode_pose,
)
from depth_ros.bags.reader import Bag


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
