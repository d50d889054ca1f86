"""Trajectory metrics against cases worked out by hand, published numbers and evo's command line."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.metrics import aligned_rmse

from depth_ros.core.metrics.trajectory import (
    absolute_errors,
    kitti_drift,
    path_length,
    pose_metrics,
    relative_errors,
    scaled_poses,
    snippet_metrics,
    trajectory_table,
    umeyama_alignment,
)


def curve() -> np.ndarray:
    t = np.linspace(0, 3, 50)
    return np.stack([10 * np.sin(t), 5 * t, 0.3 * t**2], axis=1)


def rotation(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def test_alignment_removes_pose_and_scale():
    truth = curve()
    moved = truth @ rotation(70).T + [3, -4, 5]
    error, fit = aligned_rmse(moved, truth, with_scale=False)
    assert error == pytest.approx(0, abs=1e-9) and fit.scale == 1
    error, fit = aligned_rmse(moved * 0.25, truth, with_scale=True)
    assert error == pytest.approx(0, abs=1e-9) and fit.scale == pytest.approx(4)
    assert np.allclose(fit.rotation, rotation(70).T)
    assert aligned_rmse(moved * 0.25, truth, with_scale=False)[0] > 1


def test_error_by_hand():
    # A square path with one corner pushed out of its plane by 4 and the opposite one too: the best
    # fit keeps the plane half way, so that each corner is 2 away.
    truth = np.array([[0, 0, 0], [2, 0, 0], [2, 2, 0], [0, 2, 0]], float) * 100
    estimate = truth + [[0, 0, 4], [0, 0, 0], [0, 0, 4], [0, 0, 0]]
    assert aligned_rmse(estimate, truth, with_scale=False)[0] == pytest.approx(2, rel=1e-3)
    assert path_length(truth) == 600


@pytest.mark.parametrize('points', [2, 3, 20])
def test_straight_paths(points):
    truth = np.linspace(0, 1, points)[:, None] * [30.0, 0, 0]
    estimate = truth @ rotation(40).T / 3 + 1
    error, fit = aligned_rmse(estimate, truth, with_scale=True)
    assert error == pytest.approx(0, abs=1e-6) and fit.scale == pytest.approx(3)
    # Without scaling the ends stay 10 m short each, and the rest in proportion.
    error, fit = aligned_rmse(estimate, truth, with_scale=False)
    spread = np.linspace(-10, 10, points)
    assert error == pytest.approx(np.sqrt(np.mean(spread**2)), rel=1e-3)
    assert np.linalg.det(fit.rotation) == pytest.approx(1)


def test_alignment_never_mirrors():
    """A mirrored path is fitted by the best rotation, which a numerical search confirms."""
    truth = np.random.default_rng(8).normal(0, [3, 2, 1], (40, 3))
    truth -= truth.mean(axis=0)
    mirrored = truth * [1, 1, -1]
    error, fit = aligned_rmse(mirrored, truth, with_scale=False)
    assert np.linalg.det(fit.rotation) == pytest.approx(1) and error > 0.1
    rng = np.random.default_rng(9)
    for _ in range(500):
        turn, _ = np.linalg.qr(fit.rotation + rng.normal(0, rng.choice([0.001, 0.1, 1]), (3, 3)))
        turn = turn * np.sign(np.linalg.det(turn))
        other = np.sqrt(np.mean(np.sum((mirrored @ turn.T - truth) ** 2, axis=1)))
        assert other > error - 1e-9


def test_trajectory_errors_name_the_cause():
    path = curve()
    for estimate, truth, cause in (
        (path[:1], path[:1], 'two or more'),
        (path[:5], path, 'the same'),
        (path * 0, path, 'estimate does not move'),
        (path, path * 0, 'truth does not move'),
        (path * np.nan, path, 'not finite'),
    ):
        with pytest.raises(ValueError, match=cause):
            umeyama_alignment(estimate, truth, with_scale=True)


@pytest.mark.slow
def test_needs_neither_ros_nor_evo_to_import():
    code = (
        'import sys, depth_ros.core.metrics.depth, depth_ros.core.metrics.semantics, '
        'depth_ros.core.metrics.trajectory; '
        'print([m for m in ("rclpy", "evo", "torch", "rosbags", "scipy") if m in sys.modules])'
    )
    shown = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == '[]'


def path_poses(count: int = 60, seed: int = 5) -> np.ndarray:
    """A wiggly drive of about 4 m a frame."""
    rng = np.random.default_rng(seed)
    poses = [np.eye(4)]
    for _ in range(count - 1):
        step = np.eye(4)
        step[:3, :3] = rotation(rng.normal(0, 3))
        step[:3, 3] = [4, 0, 0] + rng.normal(0, 0.3, 3)
        poses.append(poses[-1] @ step)
    return np.array(poses)


def test_snippet_by_hand():
    truth, estimate = np.tile(np.eye(4), (2, 5, 1, 1))
    truth[:, 2, 3] = [0, 1, 2, 3, 4]
    estimate[:, 2, 3] = [0, 10, 20, 30, 40]
    assert snippet_metrics(estimate, truth).ate == pytest.approx(0)
    # p = (1, 1, 1, 1), g = (1, 2, 3, 4) along z: the scale is 10/4, the errors -1.5 -.5 .5 1.5.
    estimate[:, 2, 3] = [0, 1, 1, 1, 1]
    estimate[3, :3, :3] = rotation(30)
    found = snippet_metrics(estimate, truth)
    assert found.ate == pytest.approx(np.sqrt(5) / 5)
    assert found.re == pytest.approx(np.radians(30) / 5)
    # Standing still is no way out, and no division by zero.
    still = snippet_metrics(np.tile(np.eye(4), (5, 1, 1)), truth)
    assert still.ate == pytest.approx(np.sqrt(30) / 5)


def test_snippets_do_not_depend_on_where_they_are_or_on_scale():
    truth, estimate = path_poses(5), path_poses(5, seed=6)
    found = snippet_metrics(estimate, truth)
    moved = scaled_poses(path_poses(9)[7] @ estimate, 3.0)
    assert found.ate > 0.01
    assert snippet_metrics(moved, path_poses(9)[8] @ truth) == pytest.approx(found)


def test_pose_alignments():
    truth = path_poses()
    moved = path_poses(9)[8] @ scaled_poses(truth, 0.5)
    assert pose_metrics(moved, truth, 'sim3')[:4] == pytest.approx((0, 0, 0, 0), abs=1e-5)
    found = pose_metrics(moved, truth, 'scale')
    assert found[:5] == pytest.approx((0, 0, 0, 0, 2), abs=1e-5)
    assert np.allclose(found.aligned, truth)
    assert pose_metrics(moved, truth, 'se3').rpe_translation == pytest.approx(2, rel=0.05)
    with pytest.raises(ValueError, match="'7dof' is unknown"):
        pose_metrics(truth, truth, '7dof')
    with pytest.raises(ValueError, match=r'must be \(N, 4, 4\)'):
        pose_metrics(truth[:, :3], truth, 'se3')


def test_rounded_poses_are_poses():
    truth, estimate = path_poses(), path_poses(seed=8)
    found = pose_metrics(estimate.round(3), truth.round(3), 'sim3')
    assert found[:5] == pytest.approx(pose_metrics(estimate, truth, 'sim3')[:5], rel=0.01)


def test_relative_errors_by_hand():
    truth = np.tile(np.eye(4), (4, 1, 1))
    truth[:, 0, 3] = [0, 1, 2, 3]
    estimate = truth.copy()
    estimate[2:, 0, 3] += 0.5  # one step of the three is half a metre too long
    estimate[2:, :3, :3] = rotation(9)
    found = pose_metrics(estimate, truth, 'se3')
    # The step after it is right in the world, but turned by 9 degrees in its own frame.
    turned = 2 * np.sin(np.radians(4.5))
    assert found.rpe_translation == pytest.approx(np.sqrt((0.5**2 + turned**2) / 3))
    assert found.rpe_rotation == pytest.approx(9 / np.sqrt(3), rel=1e-6)


def test_absolute_errors_by_hand():
    truth = np.tile(np.eye(4), (2, 1, 1))
    truth[1, :3, :3] = rotation(90)
    estimate = truth.copy()
    estimate[0, :3, 3] = 3, 0, 4
    estimate[1, :3, :3] = rotation(80)
    found = absolute_errors(estimate, truth)
    assert found.translation.tolist() == [5, 0]
    assert np.degrees(found.rotation) == pytest.approx([0, 10])


def test_relative_errors_do_not_depend_on_where_a_path_is():
    truth, estimate = path_poses(), path_poses(seed=8)
    found = relative_errors(path_poses(9)[7] @ estimate, path_poses(9)[8] @ truth)
    assert len(found.translation) == len(truth) - 1 and found.translation.max() > 0.1
    for errors, expected in zip(found, relative_errors(estimate, truth), strict=True):
        assert errors == pytest.approx(expected)


def test_drift_by_hand():
    truth = np.tile(np.eye(4), (200, 1, 1))
    truth[:, 2, 3] = np.arange(200)
    estimate = truth.copy()
    estimate[:, 2, 3] *= 1.1
    # A segment of 100 m ends 101 m on, at the first frame beyond 100 m: its error is 10.1 m.
    found = kitti_drift(estimate, truth, (100,))
    assert found == pytest.approx((10.1, 0, 10), abs=1e-9)
    turned = np.array([pose(rotation(0.01 * i), p[:3, 3]) for i, p in enumerate(truth)])
    assert kitti_drift(turned, truth, (100,)).r_err == pytest.approx(1.01)
    turned[20] = np.nan
    assert kitti_drift(turned, truth, (100,)).segments == 9
    with pytest.raises(ValueError, match='199 m long, the shortest segment 300 m'):
        kitti_drift(estimate, truth, (300,))


def pose(rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation, translation
    return matrix


def read_kitti(path) -> tuple[np.ndarray, np.ndarray]:
    """Frame numbers and poses of a KITTI file, which may begin each row with the number."""
    rows = np.loadtxt(path)
    numbers = rows[:, 0].astype(int) if rows.shape[1] == 13 else np.arange(len(rows))
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, :3] = rows[:, -12:].reshape(-1, 3, 4)
    return numbers, poses


@pytest.mark.parametrize(
    ('estimate', 'sequence', 't_err', 'r_err', 'ate'),
    [
        (0, '09', 2.884, 0.249, 8.387),
        (0, '10', 3.298, 0.305, 6.630),
        (1, '09', 2.528, 0.288, 10.729),
        (1, '10', 2.221, 0.369, 3.356),
    ],
)
def test_published_evaluations_of_kitti(data_dir, estimate, sequence, t_err, r_err, ate):
    folder = data_dir / 'trajectories'
    if not folder.is_dir():
        pytest.skip(f'{folder} is missing')
    truth = read_kitti(folder / 'kitti_ground_truth' / f'{sequence}.txt')[1]
    numbers, poses = read_kitti(
        folder / 'kitti_eval_examples' / f'example_{estimate}' / f'{sequence}.txt'
    )
    found = pose_metrics(poses, truth[numbers], 'sim3')
    assert found.ate == pytest.approx(ate, abs=6e-4)
    every = np.full(truth.shape, np.nan)
    every[numbers] = found.aligned
    drift = kitti_drift(every, truth)
    assert drift[:2] == pytest.approx((t_err, r_err), abs=6e-4)


ALIGNMENTS = [('se3', ['-a']), ('sim3', ['-as']), ('scale', ['-s', '--align_origin'])]
"""Our alignments and evo's options for them."""


def evo_rmse(folder, tool: str, relation: str, *options: str) -> float:
    """RMSE by evo's command line of the KITTI files `estimate` against `truth` in a folder."""
    program = Path(sys.executable).with_name(f'evo_{tool}')
    if not program.exists():
        pytest.skip('evo is not installed: pip install evo')
    shown = subprocess.run(
        [program, 'kitti', 'truth', 'estimate', '-r', relation, *options],
        cwd=folder,
        env={**os.environ, 'HOME': str(folder)},  # evo keeps settings there
        capture_output=True,
        text=True,
        check=True,
    )
    return float(re.search(r'rmse\s+([\d.]+)', shown.stdout)[1])


def check_against_evo(folder, estimate, truth, alignment, options):
    for name, poses in (('truth', truth), ('estimate', estimate)):
        np.savetxt(folder / name, poses[:, :3].reshape(-1, 12))
    found = pose_metrics(estimate, truth, alignment)
    for tool, relation, number in (
        ('ape', 'trans_part', found.ate),
        ('ape', 'angle_deg', found.ate_rotation),
        ('rpe', 'trans_part', found.rpe_translation),
        ('rpe', 'angle_deg', found.rpe_rotation),
    ):
        assert evo_rmse(folder, tool, relation, *options) == pytest.approx(number, abs=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize(('alignment', 'options'), ALIGNMENTS)
def test_evo_agrees(tmp_path, alignment, options):
    truth, estimate = path_poses(), scaled_poses(path_poses(seed=7), 0.3)
    check_against_evo(tmp_path, estimate, truth, alignment, options)


@pytest.mark.slow
@pytest.mark.parametrize(('alignment', 'options'), ALIGNMENTS)
def test_evo_agrees_on_a_real_path(data_dir, tmp_path, alignment, options):
    folder = data_dir / 'trajectories'
    if not folder.is_dir():
        pytest.skip(f'{folder} is missing')
    truth = read_kitti(folder / 'kitti_ground_truth' / '09.txt')[1]
    numbers, poses = read_kitti(folder / 'kitti_eval_examples' / 'example_0' / '09.txt')
    check_against_evo(tmp_path, poses, truth[numbers], alignment, options)


def test_table_reports_what_the_metrics_are():
    truth, estimate = path_poses(), scaled_poses(path_poses(seed=7), 0.3)
    table = trajectory_table(estimate, truth)
    found = pose_metrics(estimate, truth, 'se3')
    assert table['ate_se3'] == found.ate and table['ate_rotation_deg'] == found.ate_rotation
    assert table['rpe_se3'] == found.rpe_translation
    assert table['rpe_rotation_deg'] == found.rpe_rotation
    drift = kitti_drift(pose_metrics(estimate, truth, 'sim3').aligned, truth)
    assert (table['t_err_sim3'], table['r_err'], table['segments']) == drift
