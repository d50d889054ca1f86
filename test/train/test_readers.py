"""A reader of another kind needs its own file and a place in the registry, nothing else."""

import numpy as np
import pytest
from support.prepared import command, picture, prepare, write

from train.data import readers
from train.data.pictures import common_size
from train.data.reader import Option, Reader, found
from train.data.readers import READERS, foreign_options, recognise
from train.data.sequences import DataError
from train.data.source import Source, files


class Frames(Reader):
    """Folders called *.frames, of pictures a tenth of a second apart."""

    name = 'frames'
    summary = 'a folder *.frames'
    options = (Option('--first', type=int, metavar='N', help='frame to begin with'),)

    def recognises(self, path):
        return path.suffix == '.frames'

    def find(self, paths, args):
        everything = []
        for path in paths:
            pictures = sorted(path.iterdir())[args.first or 0 :]
            source = Source(
                path.stem,
                [p.stem for p in pictures],
                common_size(pictures),
                np.full((3, 3), np.nan),
                files(pictures),
                np.arange(len(pictures)) * 0.1,
            )
            everything += found([source], path)
        return everything, [f'read by {self.name}']


def test_a_reader_of_another_kind(tmp_path, monkeypatch, capsys, folder):
    frames = tmp_path / 'walk.frames'
    for i in range(8):
        write(frames / f'{i:03d}.png', picture(4 * i))
    assert recognise(frames).name == 'folder'
    monkeypatch.setattr(readers, 'READERS', {'frames': Frames(), **READERS})
    monkeypatch.setattr('train.commands.prepare.READERS', readers.READERS)
    assert recognise(frames).name == 'frames'
    command(frames, '--first', 3, '--out', tmp_path / 'out', '--min-motion', 0)
    assert len(list((tmp_path / 'out/walk/images').iterdir())) == 5
    assert 'read by frames' in capsys.readouterr().out
    command('frames', frames, '--rate', 5, '--out', tmp_path / 'slow', '--min-motion', 0)
    assert len(list((tmp_path / 'slow/walk/images').iterdir())) == 4
    with pytest.raises(DataError, match='--first is not for folder'):
        prepare('folder', folder, tmp_path / 'no', '--first', 3)


def test_options_of_readers():
    """Every option belongs to the readers that take it."""
    assert list(READERS) == [reader.name for reader in READERS.values()]
    assert READERS['bag'].in_time and not READERS['folder'].in_time
    taken = {name: foreign_options(reader) for name, reader in READERS.items()}
    assert 'cameras' not in taken['kitti_raw'] | taken['kitti_odometry']
    assert {'cameras', 'sequences', 'intrinsics'} <= taken['bag'] and 'image' not in taken['bag']
