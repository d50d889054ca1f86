"""`train evaluate --refinement`: the robot's odometry on a drive whose motion is known exactly."""

from collections import Counter

import numpy as np
import pytest
from support import corridor

from depth_ros.core.se3 import pose, rotation_from_vector
from train.data.sequences import DataError, read_sequence
from train.evaluation.evaluators import ALONE, CLASSICAL, evaluate_odometry
from train.evaluation.odometry import Travelled, consistency, peer, travel
from train.evaluation.predict import Perceived, Predictor
from train.evaluation.results import table
from train.evaluation.scores import SequenceScores

STEP, FRAMES = 0.25, 24


class Nothing(Predictor):
    """A model without networks."""

    def _perceive(self, image):
        raise AssertionError

    def _window(self, frames):
        raise AssertionError


@pytest.fixture(scope='module')
def drive(tmp_path_factory):
    folder = tmp_path_factory.mktemp('drives') / 'corridor'
    _, poses = corridor.write_drive(folder, FRAMES, STEP)
    np.savetxt(folder / 'poses.txt', [p[:3].ravel() for p in poses])
    np.savetxt(folder / 'camera_height.txt', [corridor.CAMERA_HEIGHT])
    return folder


def test_the_odometry_beside_a_classical_one(drive):
    scores = SequenceScores(('odometry',))
    evaluate_odometry([read_sequence(drive)], Nothing(), scores, refinement='pnp')
    numbers = scores.trajectories['corridor']
    assert numbers['length'] == pytest.approx(STEP * (FRAMES - 1), rel=0.02)
    assert numbers['ate_sim3'] < 0.1 and numbers['scale_source'] == 'height'
    assert numbers['covered'] == {} and numbers['trust'] > 0.4
    beside = numbers['baselines']
    assert CLASSICAL in beside and ALONE not in beside
    assert beside[CLASSICAL]['ate_sim3'] < beside['constant_velocity']['ate_sim3']
    assert 0 < numbers['nees_step']
    shown = table({'trajectories': scores.trajectories})
    for text in ('first pose aligned only', 'scale: height', 'NEES', 'corners and true step'):
        assert text in shown


def test_depth_is_asked_for(drive):
    class Flat(Nothing):
        perception_size = (96, 64)
        asked = 0

        def _perceive(self, image):
            self.asked += 1
            return Perceived(np.full((64, 96), 5, np.float32), None)

    for use_depth in (False, True):
        flat = Flat()
        scores = SequenceScores(('odometry',))
        evaluate_odometry(
            [read_sequence(drive)], flat, scores, refinement='pnp', use_depth=use_depth
        )
        assert flat.asked == (FRAMES if use_depth else 0)


def test_a_camera_that_stands(drive, tmp_path):
    folder = tmp_path / 'standing'
    (folder / 'images').mkdir(parents=True)
    first = (drive / 'images' / '0000.png').read_bytes()
    for i in range(6):
        (folder / 'images' / f'{i:04d}.png').write_bytes(first)
    np.savetxt(folder / 'intrinsics.txt', corridor.INTRINSICS)
    np.savetxt(folder / 'poses.txt', [np.eye(4)[:3].ravel()] * 6)
    scores = SequenceScores(('odometry',))
    evaluate_odometry([read_sequence(folder)], Nothing(), scores, refinement='pnp')
    assert scores.trajectories['standing'] == {
        'frames': 6,
        'length': 0.0,
        'farthest': 0.0,
        'turned_deg': 0.0,
    }
    assert 'standing standing, 6 frames: at most 0.0000 m' in table(
        {'trajectories': scores.trajectories}
    )


def test_true_step_lengths_give_the_classical_one_its_scale(drive):
    sequence = read_sequence(drive)
    truth = np.linalg.inv(sequence.poses[0]) @ sequence.poses
    found = peer(sequence, truth)
    np.testing.assert_allclose(
        np.linalg.norm(np.diff(found[:, :3, 3], axis=0), axis=1),
        np.linalg.norm(np.diff(truth[:, :3, 3], axis=0), axis=1),
        rtol=1e-6,
    )
    assert np.linalg.norm(found[-1][:3, 3] - truth[-1][:3, 3]) < 0.4


def test_an_unknown_camera_is_told(drive, tmp_path):
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images' / '0.png').write_bytes((drive / 'images' / '0000.png').read_bytes())
    (tmp_path / 'intrinsics.txt').write_text('unknown')
    with pytest.raises(DataError, match='has no intrinsics, which refinement needs'):
        travel(read_sequence(tmp_path), None)


def test_consistency_is_one_where_covariances_are_true():
    random = np.random.default_rng(0)
    sigma = np.r_[np.full(3, 0.02), np.full(3, 0.001)]
    poses, truth = [np.eye(4)], [np.eye(4)]
    for _ in range(400):
        step = pose(np.eye(3), [0, 0, 1.0])
        error = sigma * random.normal(size=6)
        truth.append(truth[-1] @ step)
        poses.append(poses[-1] @ step @ pose(rotation_from_vector(error[3:]), error[:3]))
    steps = np.repeat(np.diag(sigma**2)[None], 401, axis=0)
    steps[0] = np.nan
    found = Travelled(
        np.array(poses), np.repeat(np.eye(6)[None], 401, 0), steps, np.ones(401), Counter(), None
    )
    assert consistency(found, np.array(truth)).step == pytest.approx(1, rel=0.15)
