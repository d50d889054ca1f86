"""KITTI raw data and KITTI odometry become sequence folders, and what the Velodyne saw depth."""

import shutil

import cv2
import numpy as np
import pytest
from support.kitti_tree import VELO, odometry_tree
from support.prepared import HEIGHT, P2, WIDTH, command, prepare

from depth_ros.core.se3 import inverse, pose
from train.data.dataset import FrameDataset
from train.data.readers.kitti_raw import raw_sources
from train.data.sequences import DataError, read_image, read_map
from train.data.velodyne import file_projection, project_velodyne, read_points

pytestmark = pytest.mark.slow  # data sets are written and prepared


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


def test_bad_lists(kitti, tmp_path):
    (tmp_path / 'bad.txt').write_text('hello\n')
    for option in ('--split', '--static-frames'):
        with pytest.raises(DataError, match="bad.txt', line 1: expected"):
            prepare('kitti_raw', kitti, tmp_path / 'out', option, tmp_path / 'bad.txt')
    (tmp_path / 'empty.txt').write_text('2011_09_26/2011_09_26_drive_0077_sync 3 l\n')
    with pytest.raises(DataError, match='no images that the lists ask for'):
        prepare('kitti_raw', kitti, tmp_path / 'out', '--split', tmp_path / 'empty.txt')


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
