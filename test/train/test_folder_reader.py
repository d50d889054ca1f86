"""Folders of images, sequence folders and videos become sequence folders."""

import shutil

import cv2
import numpy as np
import pytest
from support.prepared import command, make_video, picture, prepare, write

from train.data.dataset import FrameDataset
from train.data.sequences import DataError, find_sequences, read_image, read_map, read_sequence


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
