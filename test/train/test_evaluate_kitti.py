"""``python -m train evaluate --kitti``, on a folder laid out as KITTI raw."""

import cv2
import numpy as np
import pytest
from support.oracle import HEIGHT, WIDTH, Oracle, run

from train.__main__ import main
from train.data.sequences import DataError
from train.evaluation.kitti import read_split

# KITTI


def test_both_forms_of_a_split(tmp_path):
    file = tmp_path / 'split.txt'
    file.write_text(
        '2011_09_26/2011_09_26_drive_0002_sync 69 r\n\n'
        '2011_09_26/2011_09_26_drive_0002_sync/image_02/data/0000000054.png\n'
    )
    drive = ('2011_09_26', '2011_09_26_drive_0002_sync')
    assert read_split(file) == [(*drive, '0000000069', 3), (*drive, '0000000054', 2)]
    file.write_text('2011_09_26/drive 69\n')
    with pytest.raises(DataError, match="cannot understand '2011_09_26/drive 69'"):
        read_split(file)


def test_published_lists_of_the_eigen_split_agree(data_dir):
    splits = data_dir / 'splits'
    if not splits.is_dir():
        pytest.skip(f'{splits} is missing')
    eigen = read_split(splits / 'eigen' / 'test_files.txt')
    assert len(eigen) == 697
    assert eigen == read_split(splits / 'sfmlearner' / 'test_files_eigen.txt')


@pytest.fixture
def kitti(tmp_path):
    """A day of KITTI raw with one drive, whose oracle image shows a wall 10 m ahead."""
    date = tmp_path / 'kitti' / '2011_09_26'
    drive = date / '2011_09_26_drive_0001_sync'
    for name in ('image_02/data', 'velodyne_points/data', 'proj_depth/groundtruth/image_02'):
        (drive / name).mkdir(parents=True)
    (date / 'calib_cam_to_cam.txt').write_text(
        'calib_time: 09-Jan-2012 13:57:47\nR_rect_00: 1 0 0 0 1 0 0 0 1\n'
        f'S_rect_02: {WIDTH} {HEIGHT}\nP_rect_02: 50 0 31.5 0 0 50 15.5 0 0 0 1 0\n'
    )
    (date / 'calib_velo_to_cam.txt').write_text('R: 0 -1 0 0 0 -1 1 0 0\nT: 0 0 0\n')
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[..., 2] = 100
    cv2.imwrite(str(drive / 'image_02/data/0000000007.png'), image)
    # The wall is at 8 m in one half, as the laser sees it; Garg's crop takes its rows 13 to 30.
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    depth = np.where(u < WIDTH // 2, 10.0, 8.0)
    points = (
        np.stack(
            [
                depth,
                -(u + 1 - 31.5) / 50 * depth,
                -(v + 1 - 15.5) / 50 * depth,
                np.zeros_like(depth),
            ],
            -1,
        )
        .reshape(-1, 4)
        .astype(np.float32)
    )
    points.tofile(drive / 'velodyne_points/data/0000000007.bin')
    cv2.imwrite(
        str(drive / 'proj_depth/groundtruth/image_02/0000000007.png'),
        (np.where(u < WIDTH // 2, 10, 100) * 256).astype(np.uint16),
    )
    split = tmp_path / 'split.txt'
    split.write_text(
        '2011_09_26/2011_09_26_drive_0001_sync 7 l\n2011_09_26/2011_09_26_drive_0001_sync 8 l\n'
    )
    return tmp_path / 'kitti', split


def test_eigen_protocol_on_a_kitti_folder(monkeypatch, tmp_path, kitti, capsys):
    options = ('--kitti', kitti[0], '--split', kitti[1])
    classic = run(monkeypatch, tmp_path, Oracle(), *options)
    assert classic['depth']['protocol']['crop'] == 'garg'
    assert classic['notes'] == [
        '1 of 2 listed images lack the image or classic ground truth, '
        'such as 2011_09_26/2011_09_26_drive_0001_sync 0000000008'
    ]
    # Garg's crop keeps columns 2 to 60: 30 at 10 m, 29 at 8 m, all predicted at 10.
    assert classic['depth']['as_published']['abs_rel'] == pytest.approx(29 / 59 * 2 / 8, rel=1e-4)
    improved = run(monkeypatch, tmp_path, Oracle(factor=20.0), *options, '--truth', 'improved')
    assert improved['depth']['protocol']['caps'] == [80] and (
        improved['depth']['protocol']['crop'] is None
    )
    # 200 m is clamped to 80 m; the truth beyond it counts.
    assert improved['depth']['as_published']['abs_rel'] == pytest.approx((7 + 0.2) / 2)
    kitti[1].write_text('2011_09_26/2011_09_26_drive_0001_sync 8 l\n')
    assert main(['evaluate', *map(str, options)]) == 2
    assert 'none of the 1 images' in capsys.readouterr().err
