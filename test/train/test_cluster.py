"""Commands spread over a Dask cluster, which here is in this process."""

import cv2
import numpy as np
import pytest
from support.corridor import CAMERA_HEIGHT, write_drive

from train.__main__ import main

distributed = pytest.importorskip('distributed', reason='Dask is not installed')
NAMES = ('a', 'b')


@pytest.fixture(scope='module')
def cluster():
    """The address of a scheduler with one worker."""
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
    ) as found:
        yield found.scheduler_address


@pytest.fixture
def folders(tmp_path):
    """Two folders of pictures that move."""
    random = np.random.default_rng(0)
    for name in NAMES:
        folder = tmp_path / 'raw' / name / 'images'
        folder.mkdir(parents=True)
        wide = random.integers(0, 255, (64, 400), np.uint8)
        wide = cv2.GaussianBlur(wide, (0, 0), 2)
        for index in range(12):
            cv2.imwrite(str(folder / f'{index:03d}.png'), wide[:, 5 * index : 5 * index + 128])
        np.savetxt(folder.parent / 'intrinsics.txt', [[100, 0, 64], [0, 100, 32], [0, 0, 1]])
    return tmp_path


def test_prepare(cluster, folders, capsys):
    out = folders / 'data'
    options = ['--out', str(out), '--width', '128', '--height', '64', '--part', 'all']
    command = ['prepare', 'folder', str(folders / 'raw'), *options]
    assert main([*command, '--cluster', cluster]) == 0
    assert sorted(p.name for p in out.iterdir() if (p / 'images').is_dir()) == list(NAMES)
    assert 'nothing to do, all of it was there' in capsys.readouterr().out
    assert (out / 'summary.html').exists()
    assert main(command) == 0, 'where it runs is no other data set'


def test_a_failure_is_told_and_the_others_are_done(cluster, folders, capsys):
    from test_label import save

    model = folders / 'model.onnx'
    save(model, [[0, 0, 0]] * 18 + [[1, 1, 1]], [0] * 19, size=(64, 128))
    other = folders / 'raw' / 'a' / 'semantics'
    other.mkdir()
    cv2.imwrite(str(other / '000.png'), np.zeros((64, 128), np.uint8))
    command = ['label', str(folders / 'raw'), '--model', str(model), '--cluster', cluster]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert '1 of 2 are not done, such as a' in error and 'labels of another origin' in error
    assert len(list((folders / 'raw' / 'b' / 'semantics').glob('*.png'))) == 12


def test_label(cluster, folders, capsys):
    from test_label import save

    model = folders / 'model.onnx'
    save(model, [[0, 0, 0]] * 18 + [[1, 1, 1]], [0] * 19, size=(64, 128))
    command = ['label', str(folders / 'raw'), '--model', str(model), '--cluster', cluster]
    assert main(command) == 0
    assert 'labelled 0 images; 24 were labelled before' in capsys.readouterr().out
    for name in NAMES:
        assert len(list((folders / 'raw' / name / 'semantics').glob('*.png'))) == 12


@pytest.mark.slow
def test_structure(cluster, tmp_path, capsys):
    pytest.importorskip('pycolmap', reason='pycolmap is not installed')
    write_drive(tmp_path / 'data' / 'a', 10)
    command = ['structure', str(tmp_path / 'data'), '--camera-height', str(CAMERA_HEIGHT)]
    assert main([*command, '--cluster', cluster]) == 0
    assert '1 of 1 sequences reconstructed (0 before), 10 of 10 frames' in capsys.readouterr().out


@pytest.mark.parametrize('command', ['structure', 'prepare', 'label'])
def test_no_scheduler(folders, capsys, command, monkeypatch):
    def refuse(*_, **__):
        raise OSError('timed out')

    monkeypatch.setattr(distributed, 'Client', refuse)
    more = {'label': ['--model', 'x.onnx'], 'prepare': ['--out', str(folders / 'data')]}
    arguments = [command, str(folders / 'raw'), *more.get(command, [])]
    assert main([*arguments, '--cluster', 'tcp://nowhere:1']) == 2
    assert 'no Dask scheduler answers at tcp://nowhere:1' in capsys.readouterr().err
