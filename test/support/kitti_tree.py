"""Small folders laid out as KITTI raw data and KITTI odometry are published."""

import numpy as np

from depth_ros.core.se3 import pose, rotation_from_vector
from support.prepared import P2, picture, write

P3 = np.array([[100.0, 0, 60, -35], [0, 100, 40, 0.5], [0, 0, 1, 0.01]])


# Axes x forward, y left, z up to z forward, x right, y down; the Velodyne 0.3 m behind.
VELO = np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])


MOVING = range(12)


def matrix_rows(**rows):
    return ''.join(
        f'{name}: {" ".join(map(str, np.ravel(values)))}\n' for name, values in rows.items()
    )


def raw_drive(root, name, shifts, cameras=(2, 3), velodyne=True):
    """A drive whose frame i shows the texture at shifts[i]; 5 m/s north, times 0.1 s apart."""
    drive = root / name[:10] / f'{name}_sync'
    for i, shift in enumerate(shifts):
        for camera in cameras:
            write(drive / f'image_{camera:02d}/data/{i:010d}.png', picture(shift, camera))
        (drive / 'oxts/data').mkdir(parents=True, exist_ok=True)
        # Latitude grows by 0.5 m a frame; forward is x of the unit, which points north: yaw 90.
        latitude = 49 + np.degrees(0.5 * i / 6378137.0)
        values = [latitude, 8.4, 110, 0, 0, np.pi / 2, 5, 0, 3, 4, 0] + [0] * 19
        (drive / f'oxts/data/{i:010d}.txt').write_text(' '.join(map(str, values)))
    for camera in cameras:
        (drive / f'image_{camera:02d}/timestamps.txt').write_text(
            ''.join(
                f'2011-09-26 13:02:{25 + i // 10:02d}.{i % 10}00000000\n'
                for i in range(len(shifts))
            )
        )
    if velodyne:
        (drive / 'velodyne_points/data').mkdir(parents=True)
        points = np.array([[10.3, 0, 0, 0], [80.3, 4, 0, 0], [-5, 0, 0, 0]], np.float32)
        points.tofile(drive / 'velodyne_points/data/0000000002.bin')
    return drive


def odometry_tree(root, frames=5):
    folder = root / 'sequences/07'
    for i in range(frames):
        write(folder / f'image_2/{i:06d}.png', picture(6 * i))
        write(folder / f'image_0/{i:06d}.png', picture(6 * i, 5))
    (folder / 'calib.txt').write_text(
        matrix_rows(P0=P2 * [1, 1, 1, 0], P2=P2, Tr=np.column_stack([VELO, [0, 0, -0.3]]))
    )
    np.savetxt(folder / 'times.txt', np.arange(frames) * 0.1)
    turn = [pose(rotation_from_vector([0, 0.1 * i, 0]), [0, 0, i]) for i in range(frames)]
    (root / 'poses').mkdir()
    np.savetxt(root / 'poses/07.txt', [p[:3].ravel() for p in turn])
    (folder / 'velodyne').mkdir()
    np.array([[10.3, 0, 0, 0]], np.float32).tofile(folder / 'velodyne/000001.bin')
    return np.array(turn)
