"""A path that a command cannot read: the message says what lies there, and which command does."""

import cv2
import numpy as np
import pytest
from support.kitti_tree import raw_drive
from support.prepared import command

from train.__main__ import main
from train.data.hints import hint
from train.data.sequences import DataError


@pytest.mark.parametrize('suffix', ['bmp', 'tif', 'webp'])
def test_pictures_of_kinds_that_are_not_read(tmp_path, suffix):
    folder = tmp_path / 'walk'
    folder.mkdir()
    cv2.imwrite(str(folder / f'0.{suffix}'), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(DataError, match=rf'holds 1 pictures of the kind \.{suffix}.*mogrify'):
        command(folder, '--out', tmp_path / 'out')
    (folder / 'images').mkdir()
    (folder / f'0.{suffix}').rename(folder / 'images' / f'0.{suffix}')
    with pytest.raises(DataError, match=rf'kind \.{suffix}'):
        command(folder, '--out', tmp_path / 'out')


def test_files_of_kinds_that_are_not_read(tmp_path):
    for name, words in (
        ('walk.mp4.gz', 'it is packed: unpack it with `gunzip'),
        ('data.zip', '`unzip'),
        ('one.png', 'single picture: give the folder'),
    ):
        (tmp_path / name).write_bytes(b'some bytes')
        with pytest.raises(DataError, match=words):
            command(tmp_path / name, '--out', tmp_path / 'out')


def test_damaged_recordings_are_named_as_such(tmp_path):
    for name in ('x.mcap.zstd', 'run.bag.active'):
        (tmp_path / name).write_bytes(b'\x28\xb5\x2f\xfd' + bytes(200))
        with pytest.raises(DataError, match=rf'recording {tmp_path / name} is damaged'):
            command(tmp_path / name, '--out', tmp_path / 'out')
    with pytest.raises(DataError, match='recording .* is damaged'):  # as a folder
        (tmp_path / 'run.bag.active').unlink()
        command(tmp_path, '--out', tmp_path / 'out')


def test_kitti_raw_is_known_to_every_command(tmp_path, capsys):
    root = tmp_path / 'kitti'
    drive = raw_drive(root, '2011_09_26_drive_0001', range(3))
    for path in (root, drive.parent, drive):
        for arguments in (
            ['make_bag', path, tmp_path / 'bag'],
            ['evaluate', path],
        ):
            assert main([str(a) for a in arguments]) == 2
            said = capsys.readouterr().err
            assert 'looks like KITTI raw' in said and 'prepare kitti_raw' in said
            assert '--kitti FOLDER --split LIST' in said


def test_recordings_and_kitti_odometry(tmp_path):
    (tmp_path / 'bags').mkdir()
    (tmp_path / 'bags' / 'a.mcap').touch()
    assert 'it has a recording' in hint(tmp_path / 'bags') and 'prepare' in hint(tmp_path / 'bags')
    assert 'is a recording' in hint(tmp_path / 'bags' / 'a.mcap')
    (tmp_path / 'odometry' / 'sequences' / '00').mkdir(parents=True)
    assert 'prepare kitti_odometry' in hint(tmp_path / 'odometry')
    (tmp_path / 'nothing').mkdir()
    assert hint(tmp_path / 'nothing') == hint(tmp_path / 'not there') == ''
