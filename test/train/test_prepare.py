"""What prepare does with recordings of every kind: divided, filtered, interrupted, damaged."""

import json
import os
import re
import shutil

import cv2
import numpy as np
import pytest
from support.kitti_tree import odometry_tree
from support.prepared import command, make_video, picture, prepare, read_json, snapshot, write
from support.robot import STEP, drive, make_bag

from depth_ros.files import locked
from train.__main__ import main as train_main
from train.data import prepare as prepare_module
from train.data.dataset import FrameDataset
from train.data.sequences import DataError, find_sequences, read_sequence
from train.training.config import DEFAULT

pytestmark = pytest.mark.slow  # recordings are written and prepared

CONFIGS = DEFAULT.parent


@pytest.mark.slow
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


def test_static_frames_are_measured(kitti, tmp_path, capsys):
    found = prepare('kitti_raw', kitti, tmp_path / 'out', '--cameras', 2)
    first = found['2011_09_26_drive_0001_sync_02']
    assert [int(p.stem) for p in first.images] == [0, 1, 2, 3, 4, 8, 9, 10]
    assert len(first.times) == 8 and first.frames is None
    assert len(found['2011_09_26_drive_0002_sync_02'].images) == 12
    assert 'of 35 frames left out 3 static, 0 too' in capsys.readouterr().out


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


@pytest.mark.slow
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


def test_command_line(folder, tmp_path, capsys):
    assert train_main(['prepare', 'folder', str(folder), '--out', str(tmp_path / 'out')]) == 0
    assert capsys.readouterr().out.count(' 1 sequences') == 2
    sizes = [len(FrameDataset(tmp_path / 'out' / part, 64, 32)) for part in ('train', 'val')]
    assert min(sizes) > 0
    assert train_main(['prepare', 'folder', str(tmp_path / 'no'), '--out', str(tmp_path)]) == 2
    assert 'check the path' in capsys.readouterr().err


def test_done_is_looked_at_again(folder, tmp_path, capsys):
    """Pictures that were mended or added since make the recording anew; others stay as they are."""
    other = shutil.copytree(folder, tmp_path / 'other')
    command = ['prepare', str(folder), str(other), '--out', str(tmp_path / 'out')]
    command += ['--part', 'all', '--min-motion', '0', '--width', '64', '--height', '32']
    pictures = sorted((folder / 'images').iterdir())
    good = [path.read_bytes() for path in pictures]
    for path, content in zip(pictures, good, strict=True):
        path.write_bytes(content[: len(content) // 3])
    assert train_main(command) == 0
    assert not (tmp_path / 'out' / folder.name).exists()
    capsys.readouterr()
    for path, content in zip(pictures[1:], good[1:], strict=True):
        path.write_bytes(content)
    assert train_main(command) == 0  # nothing was written of it: not done
    made = tmp_path / 'out' / folder.name / 'images'
    assert len(list(made.iterdir())) == len(pictures) - 1
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / 'out/other').rglob('*')}
    capsys.readouterr()
    assert train_main(command) == 0
    assert 'nothing to do' in capsys.readouterr().out
    pictures[0].write_bytes(good[0])
    assert train_main(command) == 0
    assert f'{folder.name}: has changed since it was prepared' in capsys.readouterr().out
    assert len(list(made.iterdir())) == len(pictures)
    assert kept == {p: p.stat().st_mtime_ns for p in (tmp_path / 'out/other').rglob('*')}


def test_a_recording_is_prepared_by_one_at_a_time(folder, tmp_path, capsys):
    (tmp_path / 'out').mkdir()
    with locked(tmp_path / 'out' / f'.{folder.name}.lock', 'prepare'):
        assert train_main(['prepare', str(folder), '--out', str(tmp_path / 'out')]) == 2
    assert 'is in use by process' in capsys.readouterr().err
