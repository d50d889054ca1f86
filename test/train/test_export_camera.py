"""The camera that a model file names, where the sequences may be of several."""

import shutil

import numpy as np
import pytest
from support.training import FOCAL, config

from train.data.sequences import find_sequences
from train.export.scale import one_camera
from train.training.system import System


@pytest.fixture(scope='module')
def two(street, tmp_path_factory):
    """Two cameras, one with three times the focal length of the other."""
    root = shutil.copytree(street, tmp_path_factory.mktemp('two') / 'data')
    matrix = np.loadtxt(root / '0001/intrinsics.txt')
    matrix[0, 0] = matrix[1, 1] = 3 * FOCAL
    np.savetxt(root / '0001/intrinsics.txt', matrix)
    return root


def test_several_cameras_are_refused_by_name(street, two):
    system = System(config(street, 'unused')).eval()
    message = r"fx is 50.0 pixels in '.*0000' and 150.0 in '.*0001'.*--data"
    with pytest.raises(ValueError, match=message):
        one_camera(system, find_sequences(two), str(two))
    for name, focal in (('0000', FOCAL), ('0001', 3 * FOCAL)):
        chosen = one_camera(system, find_sequences(two / name), name)
        assert chosen[0, 0] == pytest.approx(focal)


def test_one_camera_may_be_calibrated_twice(street, two, tmp_path):
    again = shutil.copytree(two, tmp_path / 'again')
    matrix = np.loadtxt(again / '0000/intrinsics.txt')
    matrix[:2] *= 1.01
    np.savetxt(again / '0001/intrinsics.txt', matrix)
    system = System(config(street, 'unused')).eval()
    assert one_camera(system, find_sequences(again), 'again')[0, 0] == pytest.approx(FOCAL)


def test_a_network_with_a_camera_of_its_own_takes_any(street, two):
    system = System(config(street, 'unused', focal=40.0)).eval()
    assert one_camera(system, find_sequences(two), 'two')[0, 0] == 40


def test_learnt_cameras_are_compared_too(street, monkeypatch):
    system = System(config(street, 'unused', learn_intrinsics=True)).eval()
    focal = iter([50.0, 150.0])
    monkeypatch.setattr('train.export.scale.camera_matrix', lambda *_: np.eye(3) * next(focal))
    with pytest.raises(ValueError, match='several cameras'):
        one_camera(system, find_sequences(street), 'street')
