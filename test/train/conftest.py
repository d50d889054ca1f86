"""Recordings that several files of tests prepare."""

import cv2
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


@pytest.fixture(scope='module')
def street(tmp_path_factory):
    """A data set of two sequences: a textured wall 10 m ahead, slid sideways 0.4 m a frame."""
    from support import training

    width, height = training.WIDTH, training.HEIGHT
    root = tmp_path_factory.mktemp('street')
    rng = np.random.default_rng(0)
    for number in range(2):
        folder = root / f'{number:04}'
        for name in ('images', 'depth', 'semantics'):
            (folder / name).mkdir(parents=True)
        noise = rng.integers(0, 256, (height // 4, width, 3), np.uint8)
        wall = cv2.resize(noise, (4 * width, height), interpolation=cv2.INTER_CUBIC)
        frames = 6
        for i in range(frames):
            left = 2 * i  # 0.4 m at 10 m and focal length 50: 2 pixels
            cv2.imwrite(str(folder / f'images/{i:06}.png'), wall[:, left : left + width])
            cv2.imwrite(
                str(folder / f'depth/{i:06}.png'),
                np.full((height, width), 10000, np.uint16),
            )
            labels = np.full((height, width), 2, np.uint8)
            labels[height // 2 :] = 0
            cv2.imwrite(str(folder / f'semantics/{i:06}.png'), labels)
        np.savetxt(
            folder / 'intrinsics.txt',
            [
                [training.FOCAL, 0, width / 2],
                [0, training.FOCAL, height / 2],
                [0, 0, 1],
            ],
        )
        poses = np.tile(np.eye(4)[:3].ravel(), (frames, 1))
        poses[:, 3] = 0.4 * np.arange(frames)
        np.savetxt(folder / 'poses.txt', poses)
        np.savetxt(folder / 'times.txt', 0.1 * np.arange(frames))
        np.savetxt(folder / 'speed.txt', np.full(frames, 4.0))
    return root


@pytest.fixture(scope='module')
def trained(street, tmp_path_factory):
    out = tmp_path_factory.mktemp('run')
    from support import training

    from train.training.trainer import fit

    fit(training.config(street, out))
    return out
