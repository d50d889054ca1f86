"""Recordings of every kind become sequence folders; interrupted, damaged, divided and filtered."""

import argparse
import json
import os
import re
import shutil

import cv2
import numpy as np
import pytest
from rosbags.convert.converter import convert
from rosbags.typesys import Stores, get_typestore
from support.encodings import TABLE, check, fields, smooth_picture

from depth_ros.bags.writer import BagWriter
from depth_ros.core.se3 import inverse, pose, quaternion_from_rotation, rotation_from_vector
from train.__main__ import main as train_main
from train.commands.prepare import add_arguments, run
from train.data import prepare as prepare_module
from train.data.dataset import FrameDataset
from train.data.readers import READERS
from train.data.readers.bag import Topics, bag_source
from train.data.readers.kitti_raw import raw_sources
from train.data.sequences import DataError, find_sequences, read_image, read_map, read_sequence
from train.data.velodyne import file_projection, project_velodyne, read_points
from train.training.config import DEFAULT

WIDTH, HEIGHT = 128, 80
P2 = np.array([[100.0, 0, 60, 5], [0, 100, 40, 0.5], [0, 0, 1, 0.01]])
P3 = np.array([[100.0, 0, 60, -35], [0, 100, 40, 0.5], [0, 0, 1, 0.01]])
# Axes x forward, y left, z up to z forward, x right, y down; the Velodyne 0.3 m behind.
VELO = np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])
MOVING = range(12)
CONFIGS = DEFAULT.parent


def picture(shift, seed=0):
    """A texture that slides by ``shift`` pixels."""
    small = np.random.default_rng(seed).integers(0, 255, (20, 100, 3), np.uint8)
    wide = cv2.resize(small, (800, 160), interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(wide[40 : 40 + HEIGHT, 50 + shift : 50 + shift + WIDTH])


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def command(*options):
    """Run ``python -m train prepare`` in this process, errors and all; everything to one folder,
    if not told otherwise."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    parser.set_defaults(part='all')
    args = parser.parse_args([str(o) for o in options])
    run(args)


def prepare(*arguments):
    """Arguments as of the command up to the output folder, then options; {name: sequence}."""
    words = 3 if arguments[0] in READERS else 2
    *paths, out = arguments[:words]
    options = arguments[words:]
    command(*paths, '--out', out, '--width', 64, '--height', 40, '--png', *options)
    return {s.folder.name: s for s in find_sequences(out)}


def matrix_rows(**rows):
    return ''.join(
        f'{name}: {" ".join(map(str, np.ravel(values)))}\n' for name, values in rows.items()
    )


# KITTI raw


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


def test_kitti_raw(kitti, tmp_path):
    found = prepare('kitti_raw', kitti, tmp_path / 'out', '--min-motion', 0)
    assert {n: len(s.images) for n, s in found.items()} == {
        '2011_09_26_drive_0001_sync_02': 11,
        '2011_09_26_drive_0001_sync_03': 11,
        '2011_09_26_drive_0002_sync_02': 12,
        '2011_09_26_drive_0002_sync_03': 12,
        '2011_09_26_drive_0009_sync_02': 12,
    }
    first = found['2011_09_26_drive_0001_sync_02']
    assert first.images[2].name == '0000000002.png' and first.frames is None
    # Half the size: cx = (60 + 0.5) / 2 - 0.5.
    np.testing.assert_allclose(first.intrinsics, [[50, 0, 29.75], [0, 50, 19.75], [0, 0, 1]])
    drive = kitti / '2011_09_26/2011_09_26_drive_0001_sync'
    wanted = read_image(drive / 'image_02/data/0000000002.png', 64, 40)
    assert np.array_equal(read_image(first.images[2], 64, 40), wanted)
    np.testing.assert_allclose(np.diff(first.times), 0.1, atol=1e-6)
    assert first.times[0] == pytest.approx(1317042145.0)  # 13:02:25 UTC
    np.testing.assert_allclose(first.speeds, 5)  # 3 forward, 4 left
    assert first.distance(3, 5) == pytest.approx(1.0)
    # The car drives ahead: z of the camera.
    np.testing.assert_allclose(
        first.poses[:, :3, 3], np.outer(np.arange(11), [0, 0, 0.5]), atol=1e-4
    )
    item = FrameDataset(tmp_path / 'out', 64, 40)[1]
    assert item['distance'].tolist() == pytest.approx([0.5, 0.5], abs=1e-5)  # of stamps since 1970


def test_kitti_raw_depth_is_eigens(kitti, tmp_path):
    """By hand. The first point: camera z = 10, u = (60 * 10 + 5) / 10.01, v = 400.5 / 10.01."""
    found = prepare('kitti_raw', kitti, tmp_path / 'out', '--min-motion', 0)
    sequence = found['2011_09_26_drive_0001_sync_02']
    assert [sequence.depth_path(i).exists() for i in range(4)] == [False, False, True, False]
    depth = read_map(sequence.depth_path(2), sequence.depth_scale)
    assert depth.shape == (HEIGHT, WIDTH)
    v, u = np.nonzero(depth)
    # 60.44 and 40.01 are 60 and 40, less one. The other: u = (-400 + 4800 + 5) / 80.01.
    assert sorted(zip(u.tolist(), v.tolist(), strict=True)) == [(54, 39), (59, 39)]
    assert depth[39, 59] == pytest.approx(10.3, abs=1 / 512)
    assert depth[39, 54] == pytest.approx(80.3, abs=1 / 512), 'beyond what millimetres reach'
    other = prepare('kitti_raw', kitti, tmp_path / 'other', '--without', 'depth', 'poses')
    assert other['2011_09_26_drive_0001_sync_02'].poses is None
    assert not (tmp_path / 'other/2011_09_26_drive_0001_sync_02/depth').exists()


def test_a_split_list_says_which_frames_are_targets(kitti, tmp_path, capsys):
    split = tmp_path / 'train_files.txt'
    split.write_text(
        '2011_09_26/2011_09_26_drive_0002_sync 3 l\n'
        '2011_09_26/2011_09_26_drive_0002_sync 0000000009 l\n'
        '2011_09_26/2011_09_26_drive_0002_sync 4 r\n'
        '2011_09_26/2011_09_26_drive_0001_sync 6 r\n'  # it stands: the list decides
        '2011_09_26/2011_09_26_drive_0002_sync 99 l\n'
        '2011_09_28/2011_09_28_drive_0005_sync 1 l\n'
    )
    found = prepare('kitti_raw', kitti, tmp_path / 'out', '--split', split)
    assert '2 frames of' in capsys.readouterr().out
    left = found['2011_09_26_drive_0002_sync_02']
    assert [int(p.stem) for p in left.images] == [1, 2, 3, 4, 5, 7, 8, 9, 10, 11]
    assert left.frames[left.frames[:, 1] == 1, 0].tolist() == [3, 9]
    assert set(found) == {
        '2011_09_26_drive_0002_sync_02',
        '2011_09_26_drive_0002_sync_03',
        '2011_09_26_drive_0001_sync_03',
    }
    for views in (3, 5):
        assert len(FrameDataset(tmp_path / 'out', 64, 40, views=views)) == 4


@pytest.mark.parametrize(
    'line',
    [
        '2011_09_26/2011_09_26_drive_0002_sync/image_03/data/0000000004.png',
        '2011_09_26/2011_09_26_drive_0002_sync 4 r',
    ],
)
def test_lists_of_paths_and_of_frames_mean_the_same(kitti, tmp_path, line):
    (tmp_path / 'list.txt').write_text(line + '\n')
    (recording,) = raw_sources(kitti, split=tmp_path / 'list.txt')[0]
    assert recording.name == '2011_09_26_drive_0002_sync_03'
    assert recording.numbers[recording.targets].tolist() == [4]


def test_sfmlearners_division(kitti, tmp_path):
    """Test drives left out, static frames too, whose neighbours become successive."""
    (tmp_path / 'test.txt').write_text('2011_09_26_drive_0009\n')
    (tmp_path / 'static.txt').write_text(
        ''.join(f'2011_09_26 2011_09_26_drive_0001_sync {i:010d}\n' for i in (5, 6, 7))
    )
    options = '--test-scenes', tmp_path / 'test.txt', '--static-frames', tmp_path / 'static.txt'
    found = prepare('kitti_raw', kitti, tmp_path / 'all', *options)
    assert len(found) == 4
    first = found['2011_09_26_drive_0001_sync_02']
    assert [int(p.stem) for p in first.images] == [0, 1, 2, 3, 4, 8, 9, 10]
    assert first.frames is None
    # Both parts together have each target once.
    parts = {
        part: prepare('kitti_raw', kitti, tmp_path / part, *options, '--part', part)
        for part in ('train', 'val')
    }

    def targets(sequence):
        flags = np.ones(len(sequence.images)) if sequence.frames is None else sequence.frames[:, 1]
        return {p.stem for p, flag in zip(sequence.images, flags, strict=True) if flag}

    held_out = 0
    for name, sequence in found.items():
        train = targets(parts['train'][name])
        val = targets(parts['val'][name]) if name in parts['val'] else set()
        assert train | val == targets(sequence) and not train & val
        held_out += len(val)
    assert 0 < held_out < 12
    assert len(FrameDataset(tmp_path / 'val', 64, 40)) > 0


def test_two_lists_make_two_data_sets(kitti, tmp_path):
    for name, frames in (('train', (2, 3, 4)), ('val', (8, 9))):
        (tmp_path / f'{name}.txt').write_text(
            ''.join(f'2011_09_26/2011_09_26_drive_0001_sync {i} l\n' for i in frames)
        )
    command(
        'kitti_raw',
        kitti,
        '--out',
        tmp_path / 'out',
        '--part',
        'both',
        '--width',
        64,
        '--height',
        40,
        '--split',
        tmp_path / 'train.txt',
        '--val-split',
        tmp_path / 'val.txt',
    )
    sizes = [len(FrameDataset(tmp_path / 'out' / part, 64, 40)) for part in ('train', 'val')]
    assert sizes == [3, 2]
    with pytest.raises(DataError, match='--val-split is for both parts'):
        command('kitti_raw', kitti, '--out', tmp_path / 'no', '--val-split', tmp_path / 'val.txt')


@pytest.mark.parametrize('name', ['sfmlearner', 'fsre'])
def test_two_commands_train_either_paper(kitti, tmp_path, name):
    data = str(tmp_path / 'kitti')
    assert (
        train_main(
            ['prepare', 'kitti_raw', str(kitti), '--out', data, '--width', '96', '--height', '64']
        )
        == 0
    )
    for image in (tmp_path / 'kitti').glob('*/*/images/*'):  # as `label` does
        path = image.parents[1] / 'semantics' / f'{image.stem}.png'
        path.parent.mkdir(exist_ok=True)
        assert cv2.imwrite(str(path), np.repeat([[0, 13]], 48, 1).repeat(64, 0).astype(np.uint8))
    assert (
        train_main(
            [
                'fit',
                '--config',
                str(CONFIGS / f'{name}.yaml'),
                '--data',
                f'{data}/train',
                '--val',
                f'{data}/val',
                '--out',
                str(tmp_path / 'run'),
                '--width',
                '96',
                '--height',
                '64',
                '--weights',
                '',
                '--pose-weights',
                '',
                '--batch-size',
                '2',
                '--steps',
                '1',
                '--val-every',
                '1',
                '--workers',
                '0',
            ]
        )
        == 0
    )
    assert (tmp_path / 'run/best.ckpt').exists()


def test_static_frames_are_measured(kitti, tmp_path, capsys):
    found = prepare('kitti_raw', kitti, tmp_path / 'out', '--cameras', 2)
    first = found['2011_09_26_drive_0001_sync_02']
    assert [int(p.stem) for p in first.images] == [0, 1, 2, 3, 4, 8, 9, 10]
    assert len(first.times) == 8 and first.frames is None
    assert len(found['2011_09_26_drive_0002_sync_02'].images) == 12
    assert 'of 35 frames left out 3 static, 0 too' in capsys.readouterr().out


def test_real_split_lists(data_dir, tmp_path):
    """Every line of the published lists is understood."""
    lists = data_dir / 'splits'
    if not lists.is_dir():
        pytest.skip(f'{data_dir} has no splits')
    from train.data.readers.kitti_raw import _read_split, _read_static

    eigen = _read_split(lists / 'eigen/test_files.txt')
    assert sum(map(len, eigen.values())) == 697
    assert {camera for _, camera in eigen} == {2}
    assert eigen == _read_split(lists / 'sfmlearner/test_files_eigen.txt')
    static = _read_static(lists / 'sfmlearner/static_frames.txt')
    assert 386 in static['2011_09_26_drive_0009']
    assert sum(map(len, static.values())) == len(
        set((lists / 'sfmlearner/static_frames.txt').read_text().split('\n')) - {''}
    )
    scenes = (lists / 'sfmlearner/test_scenes_eigen.txt').read_text().split()
    assert {drive.removesuffix('_sync') for drive, _ in eigen} == set(scenes)


# Velodyne


def test_velodyne_by_hand():
    """Identity camera that looks along x: u = -y / x, v = -z / x, at a focal length of 10."""
    projection = np.array([[10.0, -10, 0, 0], [10, 0, -10, 0], [1, 0, 0, 0]])
    points = np.array(
        [
            [2, 0, 0, 1],  # (10, 10)
            [4, 0, 0, 1],  # the same pixel, farther
            [2, 0.24, -0.24, 1],  # (8.8, 11.2): rounds to (9, 11)
            [-2, 0, 0, 1],  # behind
            [2, 2.2, 0, 1],  # (-1, 10): outside
            [1, -0.9, -0.9, 1],  # (19, 19)
        ]
    )
    camera = project_velodyne(points, projection, (20, 20), 'camera')
    assert {
        (int(v), int(u)): float(camera[v, u]) for v, u in zip(*camera.nonzero(), strict=True)
    } == {(10, 10): 2, (11, 9): 2, (19, 19): 1}
    eigen = project_velodyne(points, projection, (20, 20))
    assert np.array_equal(eigen[:-1, :-1], camera[1:, 1:])  # one pixel up and left
    with pytest.raises(ValueError, match='protocol'):
        project_velodyne(points, projection, (20, 20), 'kitti')


def test_eigens_depth_is_the_velodynes_forward_distance():
    projection = P2 @ np.vstack([np.column_stack([VELO, [0, 0, -0.3]]), [0, 0, 0, 1]])
    point = np.array([[10.3, 0, 0]])
    assert project_velodyne(point, projection, (HEIGHT, WIDTH)).max() == pytest.approx(10.3)
    camera = project_velodyne(point, projection, (HEIGHT, WIDTH), 'camera')
    assert camera[40, 60] == pytest.approx(10.01)


def test_last_column_and_next_row_are_not_confused():
    """The published code takes the last column for a duplicate of the next row's first."""
    projection = np.array([[10.0, -10, 0, 0], [10, 0, -10, 0], [1, 0, 0, 0]])
    points = np.array([[10, -10.0, 0], [3, 2.7, -0.3]])  # (20, 10) and (1, 11), before the shift
    depth = project_velodyne(points, projection, (20, 20))
    assert depth[9, 19] == 10 and depth[10, 0] == 3


def test_real_velodyne(data_dir):
    """Nearest of each pixel, found the slow way; and road in front lies where it should."""
    folder = data_dir / 'kitti_lidar_frames/000001'
    if not folder.is_dir():
        pytest.skip(f'{data_dir} has no kitti_lidar_frames')
    points, matrix = read_points(folder / 'velodyne.bin'), file_projection(folder / 'calib.txt', 2)
    shape = cv2.imread(str(folder / 'image.png')).shape[:2]
    depth = project_velodyne(points, matrix, shape)
    found = {}
    for x, y, z, _ in points[::7].astype(float):
        u, v, w = matrix @ [x, y, z, 1]
        if x <= 0 or w <= 0:
            continue
        pixel = round(v / w) - 1, round(u / w) - 1
        if 0 <= pixel[0] < shape[0] and 0 <= pixel[1] < shape[1]:
            found[pixel] = min(x, found.get(pixel, np.inf))
    sparse = project_velodyne(points[::7], matrix, shape)
    assert (sparse > 0).sum() == len(found)
    assert all(sparse[k] == np.float32(d) for k, d in found.items())
    assert 15000 < (depth > 0).sum() < 25000 and 60 < depth.max() < 90
    low = depth[shape[0] - 30 :, 400:800]
    assert 5 < np.median(low[low > 0]) < 10


# KITTI odometry


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


def test_kitti_odometry(tmp_path):
    truth = odometry_tree(tmp_path / 'kitti')
    found = prepare('kitti_odometry', tmp_path / 'kitti', tmp_path / 'out')
    sequence = found['07']
    assert len(sequence.images) == 5 and sequence.times[4] == pytest.approx(0.4)
    np.testing.assert_allclose(sequence.intrinsics, [[50, 0, 29.75], [0, 50, 19.75], [0, 0, 1]])
    depth = read_map(sequence.depth_path(1), sequence.depth_scale)
    assert depth[39, 59] == pytest.approx(10.3, abs=1 / 512) and (depth > 0).sum() == 1
    # P2 = K [I t]: a point is at X + t in camera 2, so camera 2 is at -t in camera 0.
    offset = pose(np.eye(3), -np.linalg.solve(P2[:, :3], P2[:, 3]))
    wanted = [inverse(truth[0] @ offset) @ p @ offset for p in truth]
    np.testing.assert_allclose(sequence.poses, wanted, atol=1e-7)
    grey = prepare('kitti_odometry', tmp_path / 'kitti', tmp_path / 'grey', '--cameras', 0)
    np.testing.assert_allclose(grey['07'].poses, truth, atol=1e-7)


def test_sequences_of_kitti_odometry_can_be_chosen(tmp_path):
    root = tmp_path / 'kitti'
    odometry_tree(root)
    for name in ('08', '09'):
        shutil.copytree(root / 'sequences/07', root / 'sequences' / name)
    assert list(prepare('kitti_odometry', root, tmp_path / 'all')) == ['07', '08', '09']
    assert list(prepare('kitti_odometry', root, tmp_path / 'some', '--sequences', '09', '07')) == [
        '07',
        '09',
    ]
    with pytest.raises(DataError, match=r'--sequences: .* has no 10, 7, but 07, 08, 09'):
        prepare('kitti_odometry', root, tmp_path / 'none', '--sequences', '7', '09', '10')


# Folders and videos


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


def test_folder_with_everything(folder, tmp_path):
    sequence = prepare('folder', folder, tmp_path / 'out')['walk']
    original = read_sequence(folder)
    for name in ('times', 'speeds', 'odometry', 'poses'):
        np.testing.assert_allclose(getattr(sequence, name), getattr(original, name))
    assert sequence.depth_scale == 1e-3 and not (sequence.folder / 'depth_scale.txt').exists()
    assert (read_map(sequence.depth_path(3)) == 3000).all()
    assert [sequence.semantics_path(i).exists() for i in (2, 3)] == [False, True]
    assert (read_map(sequence.semantics_path(3)) == 3).all()
    # A folder of such folders, with JPEG.
    shutil.copytree(folder, folder.parent / 'set/a')
    shutil.copytree(folder, folder.parent / 'set/b')
    command('folder', folder.parent / 'set', '--out', tmp_path / 'set_out', '--jpeg-quality', 90)
    found = find_sequences(tmp_path / 'set_out')
    assert [s.folder.name for s in found] == ['a', 'b']
    assert found[0].images[0].suffix == '.jpg'
    assert cv2.imread(str(found[0].images[0])).shape == (192, 640, 3)


def test_plain_images_have_unknown_intrinsics(folder, tmp_path):
    sequence = prepare('folder', folder / 'images', tmp_path / 'out')['walk']
    assert np.isnan(sequence.intrinsics).all() and sequence.times is None
    assert FrameDataset(tmp_path / 'out', 64, 40)[0]['intrinsics'].isnan().all()
    given = prepare(
        'folder', folder / 'images', tmp_path / 'given', '--intrinsics', 100, 90, 60, 40
    )['walk']
    np.testing.assert_allclose(given.intrinsics, [[50, 0, 29.75], [0, 45, 19.75], [0, 0, 1]])
    with pytest.raises(DataError, match='--rate needs times'):
        prepare('folder', folder / 'images', tmp_path / 'rate', '--rate', 5)


def test_rate_thins_a_recording(folder, tmp_path):
    sequence = prepare('folder', folder, tmp_path / 'out', '--rate', 5)['walk']
    assert [int(p.stem) for p in sequence.images] == [0, 2, 4, 6]
    np.testing.assert_allclose(sequence.times, [0, 0.2, 0.4, 0.6])
    assert sequence.frames is None


def make_video(path, count=30):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 30, (WIDTH, HEIGHT))
    assert writer.isOpened()
    for i in range(count):
        writer.write(picture(4 * i))
    writer.release()


def test_video(tmp_path):
    make_video(tmp_path / 'walk.avi')
    sequence = prepare('folder', tmp_path / 'walk.avi', tmp_path / 'out', '--rate', 10)['walk']
    assert [int(p.stem) for p in sequence.images] == list(range(0, 30, 3))
    np.testing.assert_allclose(sequence.times, np.arange(10) * 0.1)
    assert np.isnan(sequence.intrinsics).all()
    for i in (1, 9):
        write(tmp_path / 'wanted.png', picture(12 * i))
        wanted = read_image(tmp_path / 'wanted.png', 64, 40).astype(float)
        assert np.abs(read_image(sequence.images[i], 64, 40) - wanted).mean() < 6  # Motion JPEG
    (tmp_path / 'no.mp4').write_text('no video')
    with pytest.raises(DataError, match="no.mp4' is no video"):
        prepare('folder', tmp_path / 'no.mp4', tmp_path / 'no')


# Bags

STEP = 0.1


class Robot:
    """Records a bag as a robot's computer does: a camera, wheels, GPS and a depth sensor."""

    def __init__(self, bag, info=None):
        self.bag, self.types, self.info = bag, bag.types.types, info or {}
        self.now = None  # log time in seconds, where it is not the stamp

    def header(self, seconds):
        stamp = divmod(10**18 + round(seconds * 1e9), 10**9)
        return self.types['std_msgs/msg/Header'](
            self.types['builtin_interfaces/msg/Time'](*stamp), 'camera'
        )

    def put(self, topic, kind, seconds, *fields):
        now = seconds if self.now is None else self.now
        self.bag.write(
            topic, kind, 10**18 + round(now * 1e9), self.types[kind](self.header(seconds), *fields)
        )

    def camera_info(self, seconds):
        values = {
            'size': (WIDTH, HEIGHT),
            'model': 'plumb_bob',
            'd': (),
            'k': P2[:, :3],
            'r': np.eye(3),
            'p': P2 * [1, 1, 1, 0],
            **self.info,
        }
        roi = self.types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False)
        d, k, r, p = (np.array(values[n], float).ravel() for n in 'dkrp')
        self.put(
            '/cam/camera_info',
            'sensor_msgs/msg/CameraInfo',
            seconds,
            *values['size'][::-1],
            values['model'],
            d,
            k,
            r,
            p,
            0,
            0,
            roi,
        )

    def compressed(self, seconds, image, topic='/cam/image_raw/compressed'):
        data = image if isinstance(image, bytes) else cv2.imencode('.png', image)[1].tobytes()
        self.put(
            topic, 'sensor_msgs/msg/CompressedImage', seconds, 'png', np.frombuffer(data, np.uint8)
        )

    def raw(self, seconds, encoding, pixels, topic='/cam/image_raw', pad=0, big=False, height=None):
        rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(len(pixels), -1)
        width = pixels.shape[1]
        rows = np.pad(rows, ((0, 0), (0, pad)), constant_values=77)
        self.put(
            topic,
            'sensor_msgs/msg/Image',
            seconds,
            height or len(pixels),
            width,
            encoding,
            int(big),
            rows.shape[1],
            rows.ravel(),
        )

    def odometry(self, seconds, position, yaw, topic='/odom'):
        point = self.types['geometry_msgs/msg/Point'](*map(float, position))
        turn = self.types['geometry_msgs/msg/Quaternion'](
            *quaternion_from_rotation(rotation_from_vector([0, 0, yaw]))
        )
        zero = self.types['geometry_msgs/msg/Vector3'](0.0, 0.0, 0.0)
        self.put(
            topic,
            'nav_msgs/msg/Odometry',
            seconds,
            'base_link',
            self.types['geometry_msgs/msg/PoseWithCovariance'](
                self.types['geometry_msgs/msg/Pose'](point, turn), np.zeros(36)
            ),
            self.types['geometry_msgs/msg/TwistWithCovariance'](
                self.types['geometry_msgs/msg/Twist'](zero, zero), np.zeros(36)
            ),
        )

    def fix(self, seconds, latitude, longitude, status=0):
        self.put(
            '/fix',
            'sensor_msgs/msg/NavSatFix',
            seconds,
            self.types['sensor_msgs/msg/NavSatStatus'](status, 1),
            latitude,
            longitude,
            0.0,
            np.zeros(9),
            0,
        )

    def velocity(self, seconds, *metres, topic='/gps/vel'):
        vector = self.types['geometry_msgs/msg/Vector3']
        self.put(
            topic,
            'geometry_msgs/msg/TwistStamped',
            seconds,
            self.types['geometry_msgs/msg/Twist'](vector(*metres), vector(0.0, 0.0, 0.0)),
        )


def drive(path, shifts, more=None, info=None, **options):
    """A bag whose picture i, at i * STEP, shows the texture at shifts[i]."""
    with BagWriter(path, **options) as bag:
        robot = Robot(bag, info)
        for i, shift in enumerate(shifts):
            robot.camera_info(i * STEP)
            robot.compressed(i * STEP, picture(shift))
        if more:
            more(robot)
    return path


def make_bag(path, distortion=(), name='/cam/image_raw', odometry=True):
    """Four images 0.1 s apart; odometry from 0.04 s to 0.24 s, 1 m/s forward and turning."""
    with BagWriter(path) as bag:
        robot = Robot(bag, {'d': distortion})
        for i in range(4):
            robot.camera_info(i * STEP)
            robot.compressed(i * STEP, picture(5 * i), f'{name}/compressed')
        for t in np.arange(0.04, 0.241, 0.02) if odometry else ():
            robot.odometry(t, (t, 0, 0), t)
    return path


def read_json(out, name):
    return json.loads((out / f'.prepared/{name}.json').read_text())


def test_bag(tmp_path):
    sequence = prepare('bag', make_bag(tmp_path / 'bag'), tmp_path / 'out')['bag']
    assert len(sequence.images) == 4
    np.testing.assert_allclose(np.diff(sequence.times), 0.1, atol=1e-6)
    np.testing.assert_allclose(sequence.intrinsics, [[50, 0, 29.75], [0, 50, 19.75], [0, 0, 1]])
    write(tmp_path / 'wanted.png', picture(10))
    assert np.array_equal(
        read_image(sequence.images[2], 64, 40), read_image(tmp_path / 'wanted.png', 64, 40)
    )
    # Frames 0 and 3 are outside of the odometry.
    assert np.isnan(sequence.odometry[:, 0, 0]).tolist() == [True, False, False, True]
    assert sequence.distance(1, 2) == pytest.approx(0.1)
    np.testing.assert_allclose(
        sequence.odometry[1], pose(rotation_from_vector([0, 0, 0.1]), [0.1, 0, 0]), atol=1e-7
    )
    none = prepare('bag', make_bag(tmp_path / 'none', odometry=False), tmp_path / 'none_out')
    assert none['none'].odometry is None


def test_the_kind_of_a_recording_is_seen(tmp_path, folder, kitti):
    bag = make_bag(tmp_path / 'day.1')
    odometry_tree(tmp_path / 'odometry')
    (tmp_path / 'bags').mkdir()
    shutil.copytree(bag, tmp_path / 'bags/a')
    shutil.copytree(bag, tmp_path / 'bags/b')
    make_video(tmp_path / 'walk.avi')
    for path, names in (
        (bag, ['day.1']),
        (next(bag.glob('*.mcap')), ['day.1']),
        (tmp_path / 'bags', ['a', 'b']),
        (folder, ['walk']),
        (folder / 'images', ['walk']),
        (tmp_path / 'walk.avi', ['walk']),
        (tmp_path / 'odometry', ['07']),
    ):
        out = tmp_path / f'out_{path.name}_{path.parent.name}'
        command(path, '--out', out)
        assert [s.folder.name for s in find_sequences(out)] == names
    with pytest.raises(DataError, match='of one kind.*bag.*and folder'):
        command(bag, folder, '--out', tmp_path / 'no')


def test_several_bags_make_one_data_set(tmp_path, capsys):
    bags = [drive(tmp_path / place / 'run', range(0, 200, 4)) for place in ('a', 'b')]
    bags.append(drive(tmp_path / 'c', range(0, 160, 4), storage='sqlite3'))
    size = '--width', 64, '--height', 40, '--part', 'both'
    command(*bags[:2], '--out', tmp_path / 'out', *size)
    found = [
        [s.folder.name for s in find_sequences(tmp_path / 'out' / part)]
        for part in ('train', 'val', 'test')
    ]
    assert found == [['a_run', 'b_run']] * 3
    # Others join later; what is there is neither written nor read again.
    before = snapshot(tmp_path / 'out')
    for bag in bags[:2]:
        next(bag.glob('*.mcap')).unlink()
    command(*bags, '--out', tmp_path / 'out', *size)
    after = snapshot(tmp_path / 'out')
    assert {k: after[k] for k in before if k != 'summary.html'} == {
        k: v for k, v in before.items() if k != 'summary.html'
    }
    assert (tmp_path / 'out/train/c').is_dir()
    capsys.readouterr()
    command(*bags, '--out', tmp_path / 'out', *size)
    assert 'nothing to do' in capsys.readouterr().out
    assert snapshot(tmp_path / 'out') == after
    drive(tmp_path / 'd/c', range(0, 40, 4))
    with pytest.raises(DataError, match="has a 'c' already.*rename"):
        command(tmp_path / 'd/c', '--out', tmp_path / 'out', *size)


def test_a_bag_is_divided_in_time(tmp_path):
    bag = drive(tmp_path / 'bag', range(0, 400, 4))
    command(bag, '--out', tmp_path / 'out', '--width', 64, '--height', 40, '--part', 'both')
    found = {
        part: [int(p.stem) for p in read_sequence(tmp_path / 'out' / part / 'bag').images]
        for part in ('train', 'val', 'test')
    }
    # Of 100 frames 10, 10 and the rest, and 5 in between twice.
    assert found == {
        'train': list(range(70)),
        'val': list(range(75, 85)),
        'test': list(range(90, 100)),
    }
    assert len(FrameDataset(tmp_path / 'out/val', 64, 40)) == 8
    command(
        bag,
        '--out',
        tmp_path / 'two',
        '--width',
        64,
        '--height',
        40,
        '--part',
        'both',
        '--shares',
        0.5,
        0.5,
        0,
    )
    assert [
        len(read_sequence(tmp_path / 'two' / part / 'bag').images) for part in ('train', 'val')
    ] == [45, 50]
    assert not (tmp_path / 'two/test').exists()
    for shares in ((0.5, 0.4, 0), (0, 0.5, 0.5), (1.1, -0.1, 0)):
        with pytest.raises(DataError, match='--shares must be'):
            command(bag, '--out', tmp_path / 'no', '--part', 'both', '--shares', *shares)


def test_frames_are_thinned_to_a_parallax(tmp_path, capsys):
    """The texture slides by 2 pixels a frame, 1 at network size, and stands in the middle."""
    shifts = [*range(0, 40, 2), *[38] * 15, *range(40, 80, 2)]
    bag = drive(tmp_path / 'bag', shifts)
    sequence = prepare('bag', bag, tmp_path / 'out', '--parallax', 2.7)['bag']
    kept = np.array([shifts[int(p.stem)] for p in sequence.images])
    assert (np.diff(kept) == 6).all()
    assert sequence.frames is None, 'the frames around those that were left out are neighbours'
    report = read_json(tmp_path / 'out', 'bag')
    assert report['frames'] == 55 and report['static'] + report['close'] == 55 - len(kept)
    # At 38 the frame itself has moved by 2 pixels since 36, which was kept, or stands there.
    assert f'left out {report["static"]} static, {report["close"]} too close' in (
        capsys.readouterr().out
    )
    np.testing.assert_allclose(report['flow'], 3, atol=0.3)
    still = prepare(
        'bag',
        drive(tmp_path / 'still', [*range(0, 40, 8), *[40] * 15]),
        tmp_path / 'still_out',
        '--parallax',
        0,
    )['still']
    assert len(still.images) == 6
    assert read_json(tmp_path / 'still_out', 'still')['static'] == 14
    assert 'still: camera looks mostly static: 70 % of' in capsys.readouterr().out


def test_a_pause_parts_neighbours(tmp_path):
    def later(robot):
        for i in range(20, 30):
            robot.compressed(3 + i * STEP, picture(4 * i))

    bag = drive(tmp_path / 'bag', range(0, 80, 4), later)
    sequence = prepare(bag, tmp_path / 'out')['bag']
    assert np.diff(sequence.frames[:, 0]).tolist() == [1] * 19 + [2] + [1] * 9
    assert len(FrameDataset(tmp_path / 'out', 64, 40)) == 18 + 8
    slow = prepare(bag, tmp_path / 'slow', '--rate', 5)['bag']
    assert np.diff(slow.frames[:, 0]).tolist() == [1] * 9 + [2] + [1] * 4
    assert (
        '1 pauses without images, the longest 3.1 s' in (tmp_path / 'out/summary.html').read_text()
    )


@pytest.mark.parametrize('encoding', TABLE)
def test_every_encoding(tmp_path, encoding):
    """The table of test_images: what a node takes can be trained on."""
    rgb = smooth_picture(WIDTH, HEIGHT)
    with BagWriter(tmp_path / 'bag') as bag:
        robot = Robot(bag)
        robot.camera_info(0)
        for i, (padding, bigendian) in enumerate(((0, False), (6, False), (0, True))):
            values = fields(rgb, encoding, padding, bigendian)
            values['data'] = np.frombuffer(values['data'], np.uint8)
            robot.put('/cam/image_raw', 'sensor_msgs/msg/Image', i / 10, *values.values())
    recording = bag_source(tmp_path / 'bag', Topics('/cam/image_raw'))
    for _, read in recording.pictures(range(3)):
        check(cv2.cvtColor(read(), cv2.COLOR_BGR2RGB), rgb, encoding)


def bend(model, d, x, y):
    """Where a lens puts the ray (x, y, 1), as the models are defined; by hand."""
    r2 = x**2 + y**2
    if model == 'equidistant':
        r = np.sqrt(r2)
        theta = np.arctan(r)
        scale = theta * (1 + sum(k * theta ** (2 * i + 2) for i, k in enumerate(d))) / r
        return x * scale, y * scale
    k1, k2, p1, p2, k3, *rest = [*d, 0, 0, 0][:8]
    k4, k5, k6 = rest
    radial = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
    return (
        x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x**2),
        y * radial + p1 * (r2 + 2 * y**2) + 2 * p2 * x * y,
    )


@pytest.mark.parametrize(
    ('model', 'd'),
    [
        ('plumb_bob', (-0.3, 0.1, 0.002, -0.001, 0)),
        ('rational_polynomial', (0.5, -0.2, 0.001, 0.001, 0.01, 0.9, -0.1, 0.05)),
        ('equidistant', (-0.02, 0.01, 0, 0)),
        ('equidistant', (0, 0, 0, 0)),
    ],
)
def test_distorted_images_and_depth_are_rectified(tmp_path, model, d):
    """A grid of dots, drawn where the lens puts them, ends where a pinhole camera has them."""
    k = np.array([[300.0, 0, 330], [0, 310, 235], [0, 0, 1]])
    p = np.array([[280.0, 0, 320, 0], [0, 280, 240, 0], [0, 0, 1, 0]])
    turn = rotation_from_vector([0.02, -0.03, 0.01])  # of the rectified camera
    dots = [(u, v) for u in range(160, 481, 80) for v in range(120, 361, 60)]
    rays = np.linalg.inv(p[:, :3]) @ np.array([(u, v, 1) for u, v in dots]).T
    x, y, z = turn.T @ rays
    image, depth = np.zeros((480, 640), np.uint8), np.ones((480, 640), np.float32)
    for bent in zip(*bend(model, d, x / z, y / z), strict=True):
        u, v, _ = k @ [*bent, 1]
        cv2.circle(image, (round(u * 16), round(v * 16)), 5 * 16, 255, -1, cv2.LINE_AA, 4)
        cv2.circle(depth, (round(u), round(v)), 5, 7, -1)
    with BagWriter(tmp_path / 'bag') as bag:
        robot = Robot(bag, {'size': (640, 480), 'model': model, 'd': d, 'k': k, 'r': turn, 'p': p})
        robot.camera_info(0)
        for i in range(2):
            robot.raw(i * STEP, 'mono8', image[..., None])
            robot.raw(i * STEP, '32FC1', depth[..., None], '/lidar_depth')
    recording = bag_source(tmp_path / 'bag', Topics(depth='/lidar_depth'))
    np.testing.assert_allclose(recording.intrinsics, p[:, :3])
    for index, read in recording.pictures(range(2)):
        straight, far = read()[..., 0], recording.depth(index)
        for u, v in dots:
            patch = straight[v - 12 : v + 13, u - 12 : u + 13].astype(float)
            rows, columns = np.mgrid[v - 12 : v + 13, u - 12 : u + 13]
            found = (columns * patch).sum() / patch.sum(), (rows * patch).sum() / patch.sum()
            assert np.hypot(found[0] - u, found[1] - v) < 0.4
            assert far[v, u] == 7
        assert set(np.unique(far)) <= {0, 1, 7}, 'depth is not blended'


def test_what_is_rectified_already_stays(tmp_path):
    distortion = (-0.3, 0.1, 0, 0, 0)
    raw = prepare(
        'bag',
        make_bag(tmp_path / 'raw', distortion, '/direct/image_raw'),
        tmp_path / 'a',
        '--min-motion',
        0,
    )
    rect = prepare(
        'bag',
        make_bag(tmp_path / 'rect', distortion, '/cam/image_rect'),
        tmp_path / 'b',
        '--min-motion',
        0,
    )
    wanted = cv2.undistort(picture(5), P2[:, :3], np.array(distortion), None, P2[:, :3])
    write(tmp_path / 'straight.png', wanted)
    write(tmp_path / 'bent.png', picture(5))
    straight, bent = (
        read_image(tmp_path / f'{n}.png', 64, 40).astype(float) for n in ('straight', 'bent')
    )
    assert np.abs(straight - bent).mean() > 2
    assert np.abs(read_image(raw['raw'].images[1], 64, 40) - straight).mean() < 0.5
    assert np.array_equal(read_image(rect['rect'].images[1], 64, 40), bent)
    assert read_json(tmp_path / 'a', 'raw')['facts']['rectification'].startswith('rectified here')
    assert read_json(tmp_path / 'b', 'rect')['facts']['rectification'] == 'recorded rectified'
    strange = drive(tmp_path / 'strange', [0, 5], info={'d': (0.1,) * 6, 'model': 'double_sphere'})
    with pytest.raises(DataError, match="model 'double_sphere', which is not supported"):
        prepare('bag', strange, tmp_path / 'no')


def test_depth_goes_to_the_nearest_image(tmp_path):
    def depths(robot):
        for seconds, millimetres in ((0.012, 1000), (0.105, 2000), (0.11, 2500), (0.25, 3000)):
            robot.raw(seconds, '16UC1', np.full((30, 40, 1), millimetres, np.uint16), '/lidar')

    bag = drive(tmp_path / 'bag', range(0, 32, 8), depths)
    sequence = prepare('bag', bag, tmp_path / 'out', '--depth', '/lidar')['bag']
    found = [sequence.depth_path(i) for i in range(4)]
    assert [path.exists() for path in found] == [True, True, False, False]
    assert [int(read_map(path)[5, 5]) for path in found[:2]] == [1000, 2000]
    assert read_map(found[0]).shape == (30, 40)
    assert '50 % of the images' in read_json(tmp_path / 'out', 'bag')['facts']['depth']


def test_speed_by_gps(tmp_path):
    """5 m/s, half north and east, from fixes five times a second with two that are none."""

    def fixes(robot):
        for i in range(-5, 11):
            metres = 5 * i / 5 / np.sqrt(2)
            north = np.degrees(metres / 6371008.8)
            robot.fix(i / 5, 60 + north, 8 + north / np.cos(np.radians(60)))
        robot.fix(0.33, 0.0, 0.0, -1)
        robot.fix(0.55, float('nan'), float('nan'))

    shifts = range(0, 120, 8)
    sequence = prepare('bag', drive(tmp_path / 'fix', shifts, fixes), tmp_path / 'a')['fix']
    np.testing.assert_allclose(sequence.speeds, 5, rtol=1e-3)
    assert sequence.distance(2, 6) == pytest.approx(2, rel=1e-3)

    def velocities(robot):
        fixes(robot)  # a measured velocity wins
        for i in range(5):
            robot.velocity(0.1 + i / 5, 3.0, 4.0 * i, 0.0)
            robot.velocity(0.1 + i / 5, 9.0, 9.0, 9.0, topic='/cmd_vel')

    sequence = prepare('bag', drive(tmp_path / 'vel', shifts, velocities), tmp_path / 'b')['vel']
    np.testing.assert_allclose(sequence.speeds[[1, 3, 5]], [3, 5, np.hypot(3, 8)], rtol=1e-6)
    assert np.isnan(sequence.speeds[[0, 10]]).all()
    with pytest.raises(DataError, match='no .*NavSatFix.* on /odom'):
        prepare('bag', tmp_path / 'vel', tmp_path / 'no', '--gps', '/odom')


def test_what_is_wrong_with_a_bag_is_said(tmp_path, capsys):
    with BagWriter(tmp_path / 'bag') as bag:
        robot = Robot(bag)
        for i in range(40):
            robot.now = i * STEP
            robot.camera_info(i * STEP)
            image = picture(4 * i)
            whole = cv2.imencode('.png', image)[1].tobytes()
            robot.compressed(
                {12: 1.3, 13: 1.2, 20: 0.2}.get(i, i * STEP),
                {5: b'', 7: whole[:-40], 9: picture(0)[:20]}.get(i, image),
            )
        robot.now = 5
        robot.compressed(3.9, picture(156))
    sequence = prepare('bag', tmp_path / 'bag', tmp_path / 'out')['bag']
    # One of the 40 was stamped a second and more before others: the following are renumbered.
    assert [int(p.stem) for p in sequence.images] == [i for i in range(39) if i not in (5, 7, 9)]
    assert (np.diff(sequence.times) > 0).all()
    text = capsys.readouterr().out
    for part in (
        "image 5 of /cam/image_raw/compressed: compressed image (format 'png', 0 bytes) is empty",
        'image 7 of',
        'is truncated',
        "'000009' has 128x20 pixels",
        'images were recorded out of order',
        '1 images left out whose stamps go back by up to',
        '1 images have the stamp of another',
        'no wheel odometry and no GPS',
        '3 damaged',
    ):
        assert part in text
    page = (tmp_path / 'out/summary.html').read_text()
    assert 'stamps go back by' in page and '3 damaged images' in page


def test_the_summary_page(tmp_path):
    """It names all that the issue wants, and needs nothing from elsewhere."""

    def flicker(robot):
        for i in range(40, 80):
            robot.compressed(i * STEP, picture(4 * i) // (1 + i % 2))
            robot.odometry(i * STEP, (i, 0, 0), 0)

    bag = drive(tmp_path / 'my bag <1>', range(0, 160, 4), flicker)
    command(bag, '--out', tmp_path / 'out', '--width', 64, '--height', 40, '--part', 'both')
    page = (tmp_path / 'out/summary.html').read_text()
    for text in (
        'my bag &lt;1&gt;',
        'rolling exposure',
        'Examples: train',
        'Examples: val',
        'histogram of motion',
        'too few frames',
        'fx 50.0, fy 50.0, cx 29.8, cy 19.8',
        '10.0 Hz',
        '/odom',
        'none needed: no distortion',
    ):
        assert text in page
    assert 'metric scale needs' not in page and 'mostly static' not in page
    assert page.count('data:image/jpeg') > 15
    assert page.count('data:image/svg+xml') == 2 * 2  # each for wide and for narrow pages
    assert not re.search(r'(src|srcset|href)="(?!data:|#)|@import|url\(', page)


def test_recordings_of_ros1_and_of_a_crash(tmp_path, capsys):
    bag = drive(tmp_path / 'bag', range(0, 160, 4), storage='mcap')
    whole = prepare(bag, tmp_path / 'whole')['bag']
    convert(
        [bag],
        tmp_path / 'old.bag',
        '',
        0,
        None,
        '',
        None,
        get_typestore(Stores.ROS1_NOETIC),
        [],
        [],
        [],
        [],
    )
    ros1 = prepare(tmp_path / 'old.bag', tmp_path / 'ros1')['old']
    np.testing.assert_allclose(ros1.times, whole.times)
    assert all(
        a.read_bytes() == b.read_bytes() for a, b in zip(ros1.images, whole.images, strict=True)
    )
    capsys.readouterr()
    data = next(bag.glob('*.mcap')).read_bytes()
    (tmp_path / 'cut.mcap').write_bytes(data[: len(data) * 2 // 3])
    cut = prepare(tmp_path / 'cut.mcap', tmp_path / 'crash')['cut']
    assert 10 < len(cut.images) < 40
    assert all(
        a.read_bytes() == b.read_bytes() for a, b in zip(cut.images, whole.images, strict=False)
    )
    assert 'warning: cut: the recording is damaged' in capsys.readouterr().out


def test_bags_that_cannot_be_used(tmp_path):
    with pytest.raises(DataError, match='no topic /other'):
        prepare('bag', make_bag(tmp_path / 'bag'), tmp_path / 'out', '--image', '/other')
    with pytest.raises(DataError, match='/wheel'):
        prepare('bag', tmp_path / 'bag', tmp_path / 'out', '--odom', '/wheel')

    def colour(robot):
        robot.raw(0, 'rgb8', picture(0), '/lidar')

    with pytest.raises(DataError, match="/lidar of .* is no depth: depth encoding 'rgb8'"):
        prepare(
            drive(tmp_path / 'colour', [0, 5], colour),
            tmp_path / 'out',
            '--image',
            '/cam/image_raw/compressed',
            '--depth',
            '/lidar',
        )

    def two(robot):
        robot.odometry(0, (0, 0, 0), 0, '/a')
        robot.odometry(0, (0, 0, 0), 0, '/b')

    with pytest.raises(DataError, match='several topics for --odom: choose one of /a, /b'):
        prepare('bag', drive(tmp_path / 'two', [0, 5], two), tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


# Interruptions and damage


def snapshot(root):
    return {
        str(p.relative_to(root)): p.read_bytes().replace(b'whole', b'out')
        for p in sorted(root.rglob('*'))
        if p.is_file()
    }


def test_an_interrupted_run_goes_on(kitti, tmp_path, monkeypatch):
    """The result is what one run gives, and nothing is done twice."""
    prepare('kitti_raw', kitti, tmp_path / 'whole')
    written = []
    save = prepare_module.save

    def interrupted(path, *args):
        if len(written) == 30:
            raise KeyboardInterrupt
        written.append(path)
        return save(path, *args)

    monkeypatch.setattr(prepare_module, 'save', interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare('kitti_raw', kitti, tmp_path / 'out', '--workers', 1)
    there = snapshot(tmp_path / 'out')
    assert 0 < len(there) < len(snapshot(tmp_path / 'whole'))
    # A file that was being written is no obstacle.
    (next((tmp_path / 'out').glob('.*.part')) / 'images/0000000009.png.part').write_bytes(b'x')
    again = []
    monkeypatch.setattr(
        prepare_module, 'save', lambda path, *args: again.append(path) or save(path, *args)
    )
    prepare('kitti_raw', kitti, tmp_path / 'out')
    assert snapshot(tmp_path / 'out') == snapshot(tmp_path / 'whole')
    assert not {p for p in again if p.parent.name == 'images'} & {
        p for p in written if p.parent.name == 'images'
    }
    again.clear()
    prepare('kitti_raw', kitti, tmp_path / 'out')
    assert again == []


def test_files_appear_whole(tmp_path, monkeypatch):
    """If the disk is full, no half of an image is left under its name."""

    def full(file):
        os.ftruncate(file, 10)
        raise OSError('No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='No space'):
        prepare_module.save(tmp_path / 'a.png', picture(0))
    assert list(tmp_path.iterdir()) == []


def test_other_options_do_not_mix(folder, tmp_path):
    prepare('folder', folder, tmp_path / 'out')
    with pytest.raises(DataError, match='prepared with jpeg_quality 95, not 90'):
        prepare('folder', folder, tmp_path / 'out', '--jpeg-quality', 90)
    prepare('folder', folder, tmp_path / 'out', '--workers', 1)
    assert json.loads((tmp_path / 'out/prepared.json').read_text())['width'] == 64


def test_damaged_pictures_are_counted_and_break_the_sequence(folder, tmp_path, capsys):
    (folder / 'images/003.png').write_bytes(b'')
    write(folder / 'images/006.png', picture(0)[:20])
    sequence = prepare('folder', folder, tmp_path / 'out')['walk']
    assert [int(p.stem) for p in sequence.images] == [0, 1, 2, 4, 5, 7]
    assert sequence.frames.tolist() == [[n, 1] for n in (0, 1, 2, 4, 5, 7)]
    assert len(FrameDataset(tmp_path / 'out', 64, 40)) == 1
    text = capsys.readouterr().out
    assert "003.png' is damaged" in text and "'006' has 128x20 pixels" in text
    assert '6 frames' in text and '2 damaged' in text
    for path in (folder / 'images').iterdir():
        path.write_bytes(b'')
    with pytest.raises(DataError, match='not one of the 8 images'):
        prepare('folder', folder, tmp_path / 'none')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('folder', 'nowhere'), 'nowhere'),
        (('kitti_raw', '.'), 'expected KITTI raw'),
        (('kitti_odometry', '.'), 'expected KITTI odometry'),
        (('folder', '.', '--rate', '0'), '--rate must be'),
        (('folder', '.', '--width', '5'), '--width must be'),
        (('folder', '.', '--split', 'x'), '--split is not for folder'),
        (('kitti_raw', '.', '--sequences', '00'), '--sequences is not for kitti_raw'),
        (('kitti_raw', '.', '--split', 'x', '--static-frames', 'x'), 'one or the other'),
    ],
)
def test_bad_requests(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        command(*arguments, '--out', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_bad_lists(kitti, tmp_path):
    (tmp_path / 'bad.txt').write_text('hello\n')
    for option in ('--split', '--static-frames'):
        with pytest.raises(DataError, match="bad.txt', line 1: expected"):
            prepare('kitti_raw', kitti, tmp_path / 'out', option, tmp_path / 'bad.txt')
    (tmp_path / 'empty.txt').write_text('2011_09_26/2011_09_26_drive_0077_sync 3 l\n')
    with pytest.raises(DataError, match='no images that the lists ask for'):
        prepare('kitti_raw', kitti, tmp_path / 'out', '--split', tmp_path / 'empty.txt')


# Real recordings


@pytest.mark.parametrize('name', ['kitti_street', 'indoor_handheld'])
def test_real_folders(data_dir, tmp_path, name):
    if not (data_dir / name).is_dir():
        pytest.skip(f'{data_dir} has no {name}')
    sequence = prepare('folder', data_dir / name, tmp_path / 'out')[name]
    count = len(read_sequence(data_dir / name).images)
    assert 0.8 * count < len(sequence.images) <= count
    original = read_sequence(data_dir / name).intrinsics
    height, width = cv2.imread(str(read_sequence(data_dir / name).images[0])).shape[:2]
    np.testing.assert_allclose(sequence.intrinsics[0, 0], original[0, 0] * 64 / width)
    np.testing.assert_allclose(
        sequence.intrinsics[1, 2], (original[1, 2] + 0.5) * 40 / height - 0.5
    )
    if name == 'indoor_handheld':
        assert read_map(sequence.depth_path(0)).shape == (height, width)
        assert sequence.poses is not None


def test_command_line(folder, tmp_path, capsys):
    assert train_main(['prepare', 'folder', str(folder), '--out', str(tmp_path / 'out')]) == 0
    assert capsys.readouterr().out.count(' 1 sequences') == 2
    sizes = [len(FrameDataset(tmp_path / 'out' / part, 64, 32)) for part in ('train', 'val')]
    assert min(sizes) > 0
    assert train_main(['prepare', 'folder', str(tmp_path / 'no'), '--out', str(tmp_path)]) == 2
    assert 'check the path' in capsys.readouterr().err
