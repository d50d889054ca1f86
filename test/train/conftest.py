"""Recordings that several files of tests prepare."""

import numpy as np
import pytest
from support.kitti_tree import MOVING, P3, VELO, matrix_rows, raw_drive
from support.prepared import HEIGHT, P2, WIDTH, picture, write


@pytest.fixture
def kitti(tmp_path):
    """Drives 1 (one camera stands for frames 4 to 7), 2 and 9, of one day."""
    root = tmp_path / 'kitti'
    raw_drive(root, '2011_09_26_drive_0001', [0, 6, 12, 18, 24, 24, 24, 24, 30, 36, 42])
    raw_drive(root, '2011_09_26_drive_0002', [8 * i for i in MOVING], velodyne=False)
    raw_drive(root, '2011_09_26_drive_0009', [5 * i for i in MOVING], cameras=(2,), velodyne=False)
    date = root / '2011_09_26'
    (date / 'calib_cam_to_cam.txt').write_text(
        'calib_time: 09-Jan-2012 13:57:47\n'
        + matrix_rows(R_rect_00=np.eye(3), P_rect_02=P2, P_rect_03=P3)
    )
    (date / 'calib_velo_to_cam.txt').write_text(matrix_rows(R=VELO, T=[0, 0, -0.3]))
    (date / 'calib_imu_to_velo.txt').write_text(matrix_rows(R=np.eye(3), T=[-0.8, 0.3, -0.8]))
    return root


@pytest.fixture
def folder(tmp_path):
    """A sequence with everything."""
    root = tmp_path / 'walk'
    for i in range(8):
        write(root / f'images/{i:03d}.png', picture(4 * i))
        write(root / f'depth/{i:03d}.png', np.full((HEIGHT, WIDTH), 1000 * i, np.uint16))
        if i % 2:
            write(root / f'semantics/{i:03d}.png', np.full((HEIGHT, WIDTH), i, np.uint8))
    np.savetxt(root / 'intrinsics.txt', P2[:, :3])
    np.savetxt(root / 'times.txt', np.arange(8) * 0.1)
    np.savetxt(root / 'speed.txt', np.arange(8))
    np.savetxt(
        root / 'odometry.txt', [np.column_stack([np.eye(3), [i, 0, 0]]).ravel() for i in range(8)]
    )
    np.savetxt(
        root / 'poses.txt', [np.column_stack([np.eye(3), [0, 0, i]]).ravel() for i in range(8)]
    )
    return root
