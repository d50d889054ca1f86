"""Metrics against cases worked out by hand, then properties."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest

from depth_ros.core import metrics

SHAPE = (4, 5)


def constant(value: float) -> np.ndarray:
    return np.full(SHAPE, value, np.float32)


# Depth


def test_depth_metrics_by_hand():
    truth = np.array([[2.0, 4.0], [10.0, 20.0]])
    predicted = np.array([[3.0, 4.0], [8.0, 26.0]])
    # |e|/g: .5 0 .2 .3; e^2/g: .5 0 .4 1.8; e^2: 1 0 4 36; ratios: 1.5 1 1.25 1.3
    found = metrics.depth_metrics(predicted, truth)
    logs = np.log([1.5, 1.0, 0.8, 1.3])
    assert found == pytest.approx(
        (0.25, 0.675, np.sqrt(41 / 4), np.sqrt(np.mean(logs**2)), 0.25, 1.0, 1.0)
    )
    assert metrics.DepthMetrics._fields == (
        'abs_rel',
        'sq_rel',
        'rmse',
        'rmse_log',
        'a1',
        'a2',
        'a3',
    )


def test_perfect_depth():
    truth = np.random.default_rng(0).uniform(1, 70, SHAPE)
    assert metrics.depth_metrics(truth, truth) == (0, 0, 0, 0, 1, 1, 1)


def test_median_scaling_removes_any_unit():
    rng = np.random.default_rng(1)
    truth = rng.uniform(1, 40, SHAPE)
    predicted = truth * rng.uniform(0.9, 1.1, SHAPE)
    scaled = metrics.depth_metrics(predicted * 0.037, truth, median_scaling=True)
    assert scaled == pytest.approx(metrics.depth_metrics(predicted, truth, median_scaling=True))
    assert metrics.depth_metrics(constant(7), constant(3), median_scaling=True).abs_rel == 0
    assert metrics.depth_metrics(constant(6), constant(3)).abs_rel == 1


def test_pixels_that_do_not_count():
    truth, predicted = constant(10), constant(20)
    truth[0] = 0, np.nan, 80, 90, 1e-3
    predicted[1] = np.nan, np.inf, 0, -1, 20
    assert metrics.depth_metrics(predicted, truth).abs_rel == 1
    truth[0, 3], predicted[0, 3] = 90, 90  # counts only with a larger limit, and is right there
    found = metrics.depth_metrics(predicted, truth, max_depth=100)
    assert found.abs_rel == pytest.approx((11 + 0 + 60 / 80) / 13)


def test_prediction_is_clamped_after_scaling():
    assert metrics.depth_metrics(constant(500), constant(40)).abs_rel == 1  # 500 -> 80
    truth = np.array([[1.0, 1.0, 2.0]])
    predicted = np.array([[1.0, 1.0, 400.0]])
    assert metrics.depth_metrics(
        predicted, truth, median_scaling=True, max_depth=3
    ).abs_rel == pytest.approx((0 + 0 + 0.5) / 3)


def test_garg_crop_has_the_published_corners():
    rows, columns = metrics.garg_crop(375, 1242)
    assert (rows.start, rows.stop, columns.start, columns.stop) == (153, 371, 44, 1197)
    truth, predicted = np.full((375, 1242), 5.0), np.full((375, 1242), 10.0)
    predicted[153:371, 44:1197] = 5.0
    assert metrics.depth_metrics(predicted, truth, crop='garg').abs_rel == 0
    assert metrics.depth_metrics(predicted, truth).abs_rel > 0
    predicted[152], predicted[371] = 99, 99
    predicted[:, 43], predicted[:, 1197] = 99, 99
    assert metrics.depth_metrics(predicted, truth, crop='garg').abs_rel == 0


def test_depth_errors_name_the_cause():
    with pytest.raises(ValueError, match='no valid pixels'):
        metrics.depth_metrics(constant(5), constant(np.nan))
    with pytest.raises(ValueError, match=r'\(4, 5\) and ground truth \(2, 2\)'):
        metrics.depth_metrics(constant(5), np.ones((2, 2)))
    with pytest.raises(ValueError, match="crop 'eigen' is unknown"):
        metrics.depth_metrics(constant(5), constant(5), crop='eigen')
    with pytest.raises(ValueError, match='no images'):
        metrics.mean_depth_metrics([])


def test_images_weigh_the_same():
    one = metrics.depth_metrics(constant(6), constant(3))
    other = metrics.depth_metrics(np.full((100, 100), 3.0), np.full((100, 100), 3.0))
    assert metrics.mean_depth_metrics([one, other]).abs_rel == pytest.approx(0.5)


# Labels


def test_iou_by_hand():
    truth = np.array([[0, 0, 0, 1], [1, 1, 255, 255]])
    predicted = np.array([[0, 0, 1, 1], [1, 255, 0, 2]])
    matrix = metrics.confusion(predicted, truth, 3)
    assert matrix.tolist() == [[2, 1, 0, 0], [0, 2, 0, 1], [0, 0, 0, 0]]
    scores = metrics.iou(matrix)
    assert scores[:2] == pytest.approx([2 / 3, 2 / 4]) and np.isnan(scores[2])
    assert metrics.mean_iou(matrix) == pytest.approx((2 / 3 + 2 / 4) / 2)


def test_a_class_only_predicted_scores_zero_but_is_not_averaged():
    matrix = metrics.confusion(np.array([[0, 1]]), np.array([[0, 0]]), 2)
    assert metrics.iou(matrix).tolist() == [0.5, 0]
    assert metrics.mean_iou(matrix) == 0.5


def test_confusions_add_up():
    rng = np.random.default_rng(2)
    truth, predicted = rng.integers(0, 19, (2, 30, 40))
    halves = [metrics.confusion(predicted[i : i + 15], truth[i : i + 15], 19) for i in (0, 15)]
    assert np.array_equal(sum(halves), metrics.confusion(predicted, truth, 19))


def test_label_errors_name_the_cause():
    with pytest.raises(ValueError, match='prediction has class id 7, but there are 3'):
        metrics.confusion(np.array([[7]]), np.array([[0]]), 3)
    with pytest.raises(ValueError, match='differ'):
        metrics.confusion(np.zeros((2, 2), int), np.zeros((2, 3), int), 3)
    with pytest.raises(ValueError, match='255 everywhere'):
        metrics.mean_iou(metrics.confusion(np.array([[1]]), np.array([[255]]), 3))


# Trajectories


def curve() -> np.ndarray:
    t = np.linspace(0, 3, 50)
    return np.stack([10 * np.sin(t), 5 * t, 0.3 * t**2], axis=1)


def rotation(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def test_alignment_removes_pose_and_scale():
    truth = curve()
    moved = truth @ rotation(70).T + [3, -4, 5]
    found = metrics.trajectory_metrics(moved, truth)
    assert found.ate_se3 == pytest.approx(0, abs=1e-9) and found.scale == pytest.approx(1)
    found = metrics.trajectory_metrics(moved * 0.25, truth)
    assert found.ate_sim3 == pytest.approx(0, abs=1e-9) and found.scale == pytest.approx(4)
    assert found.ate_se3 > 1
    assert np.allclose(found.aligned, truth)
    assert found.length == pytest.approx(metrics.path_length(truth))


def test_error_by_hand():
    # A square path with one corner pushed out of its plane by 4 and the opposite one too: the best
    # fit keeps the plane half way, so that each corner is 2 away.
    truth = np.array([[0, 0, 0], [2, 0, 0], [2, 2, 0], [0, 2, 0]], float) * 100
    estimate = truth + [[0, 0, 4], [0, 0, 0], [0, 0, 4], [0, 0, 0]]
    found = metrics.trajectory_metrics(estimate, truth)
    assert found.ate_se3 == pytest.approx(2, rel=1e-3)
    assert found.length == 600


@pytest.mark.parametrize('points', [2, 3, 20])
def test_straight_paths(points):
    truth = np.linspace(0, 1, points)[:, None] * [30.0, 0, 0]
    found = metrics.trajectory_metrics(truth @ rotation(40).T / 3 + 1, truth)
    assert found.ate_sim3 == pytest.approx(0, abs=1e-6) and found.scale == pytest.approx(3)
    # Without scaling the ends stay 10 m short each, and the rest in proportion.
    spread = np.linspace(-10, 10, points)
    assert found.ate_se3 == pytest.approx(np.sqrt(np.mean(spread**2)), rel=1e-3)


def test_trajectory_errors_name_the_cause():
    path = curve()
    with pytest.raises(ValueError, match='two or more'):
        metrics.trajectory_metrics(path[:1], path[:1])
    with pytest.raises(ValueError, match='the same'):
        metrics.trajectory_metrics(path[:5], path)
    with pytest.raises(ValueError, match='estimate does not move'):
        metrics.trajectory_metrics(path * 0, path)
    with pytest.raises(ValueError, match='truth does not move'):
        metrics.trajectory_metrics(path, path * 0)
    with pytest.raises(ValueError, match='not finite'):
        metrics.trajectory_metrics(path * np.nan, path)


def test_needs_neither_ros_nor_evo_to_import():
    code = (
        'import sys, depth_ros.core.metrics; '
        'print([m for m in ("rclpy", "evo", "torch", "rosbags", "cv2") if m in sys.modules])'
    )
    shown = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == '[]'


def test_depth_protocol_against_a_loop_over_pixels():
    rng = np.random.default_rng(3)
    truth = rng.uniform(0, 100, (375, 1242))
    truth[rng.random(truth.shape) < 0.9] = 0
    predicted = rng.uniform(0.01, 6, truth.shape)
    pairs = [
        (predicted[v, u], truth[v, u])
        for v in range(153, 371)
        for u in range(44, 1197)
        if 1e-3 < truth[v, u] < 50
    ]
    ratio = np.median([g for _, g in pairs]) / np.median([d for d, _ in pairs])
    errors = [abs(min(max(d * ratio, 1e-3), 50) - g) / g for d, g in pairs]
    judged = metrics.judged_depth(predicted, truth, max_depth=50, crop='garg', median_scaling=True)
    assert judged.scale == pytest.approx(ratio) and judged.counts.sum() == len(pairs)
    found = metrics.depth_metrics(predicted, truth, max_depth=50, crop='garg', median_scaling=True)
    assert found.abs_rel == pytest.approx(np.mean(errors), rel=1e-12)


def test_scale_and_shift_of_inverse_depth():
    """MiDaS's protocol, against numpy's least squares."""
    rng = np.random.default_rng(4)
    truth = rng.uniform(1, 100, (40, 50))
    truth[rng.random(truth.shape) < 0.5] = 0
    exact = 1 / (7 / np.where(truth > 0, truth, 3) + 0.3)
    judged = metrics.judged_depth(exact, truth, affine=True)
    assert judged.scale == pytest.approx(7) and judged.shift == pytest.approx(-0.3 / 7)
    np.testing.assert_allclose(judged.depth[judged.counts], truth[judged.counts], rtol=1e-9)

    found = 1 / (1 / exact + rng.uniform(0, 1, truth.shape))
    known = (truth > 1e-3) & (truth < 80)
    x, y = 1 / found[known], 1 / truth[known]
    (a, b), *_ = np.linalg.lstsq(np.stack([x, np.ones_like(x)], 1), y, rcond=None)
    expected = 1 / np.maximum(a * x + b, 1 / 80)  # what is at infinity or behind is at the cap
    g = truth[known]
    assert (a * x + b < 1 / 80).any()
    row = metrics.depth_metrics(found, truth, affine=True)
    assert row.abs_rel == pytest.approx(np.mean(abs(expected - g) / g))
    # One factor would judge the shift, of which such a network knows nothing.
    assert row.abs_rel < metrics.depth_metrics(found, truth, median_scaling=True).abs_rel

    table = metrics.depth_table(found, truth, factor=None, affine=True)
    assert table.aligned is table.rows['scaled_and_shifted'] == row
    assert {'scaled_and_shifted_50m', '0_to_10m'} < set(table.rows)
    assert not {'median_scaled', 'as_published'} & set(table.rows)
    assert metrics.aligned_depth(found, table.scale, table.shift)[known] == pytest.approx(
        np.where(a * x + b > 0, 1 / (a * x + b), np.inf)
    )


def test_flat_depth_has_a_scale_and_no_shift():
    judged = metrics.judged_depth(
        np.full((2, 2), 2.0), np.array([[1.0, 3, 5, 7]]).reshape(2, 2), affine=True
    )
    assert judged.scale == 2 and judged.shift == 0


def test_improved_truth_counts_beyond_the_cap_but_predictions_are_clamped():
    truth, predicted = np.array([[50.0, 100.0, 0.0]]), np.array([[50.0, 100.0, 7.0]])
    assert metrics.depth_metrics(predicted, truth).abs_rel == 0
    assert metrics.depth_metrics(predicted, truth, limit_truth=False).abs_rel == pytest.approx(0.1)


def test_edges_by_hand():
    labels = np.array([[0, 0, 0, 0, 1, 1, 1, 255, 2]])
    assert metrics.edge_mask(labels, 1).astype(int).tolist() == [[0, 0, 0, 1, 1, 0, 0, 0, 0]]
    assert metrics.edge_mask(labels, 2).astype(int).tolist() == [[0, 0, 1, 1, 1, 1, 0, 0, 0]]
    assert not metrics.edge_mask(np.full((4, 4), 3), 9).any()
    with pytest.raises(ValueError, match='radius 0'):
        metrics.edge_mask(labels, 0)


@pytest.mark.parametrize('radius', [1, 2.5, 5])
def test_edges_against_a_loop_over_pixels(radius):
    rng = np.random.default_rng(4)
    labels = rng.choice([0, 0, 0, 0, 0, 0, 0, 0, 1, 255], (23, 31))
    borders = [
        (v, u)
        for v, u in np.ndindex(labels.shape)
        for dv, du in ((0, 1), (1, 0), (0, -1), (-1, 0))
        if 0 <= v + dv < 23
        and 0 <= u + du < 31
        and 255 not in (labels[v, u], labels[v + dv, u + du])
        and labels[v, u] != labels[v + dv, u + du]
    ]
    expected = [
        [min(np.hypot(v - a, u - b) for a, b in borders) < radius for u in range(31)]
        for v in range(23)
    ]
    assert np.array_equal(metrics.edge_mask(labels, radius), expected)


# Poses


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
    assert metrics.snippet_metrics(estimate, truth).ate == pytest.approx(0)
    # p = (1, 1, 1, 1), g = (1, 2, 3, 4) along z: the scale is 10/4, the errors -1.5 -.5 .5 1.5.
    estimate[:, 2, 3] = [0, 1, 1, 1, 1]
    estimate[3, :3, :3] = rotation(30)
    found = metrics.snippet_metrics(estimate, truth)
    assert found.ate == pytest.approx(np.sqrt(5) / 5)
    assert found.re == pytest.approx(np.radians(30) / 5)
    # Standing still is no way out, and no division by zero.
    still = metrics.snippet_metrics(np.tile(np.eye(4), (5, 1, 1)), truth)
    assert still.ate == pytest.approx(np.sqrt(30) / 5)


def test_snippets_do_not_depend_on_where_they_are_or_on_scale():
    truth, estimate = path_poses(5), path_poses(5, seed=6)
    found = metrics.snippet_metrics(estimate, truth)
    moved = metrics.scaled_poses(path_poses(9)[7] @ estimate, 3.0)
    assert found.ate > 0.01
    assert metrics.snippet_metrics(moved, path_poses(9)[8] @ truth) == pytest.approx(found)


def test_pose_alignments():
    truth = path_poses()
    moved = path_poses(9)[8] @ metrics.scaled_poses(truth, 0.5)
    assert metrics.pose_metrics(moved, truth, 'sim3')[:3] == pytest.approx((0, 0, 0), abs=1e-5)
    found = metrics.pose_metrics(moved, truth, 'scale')
    assert found[:4] == pytest.approx((0, 0, 0, 2), abs=1e-5)
    assert np.allclose(found.aligned, truth)
    assert metrics.pose_metrics(moved, truth, 'se3').rpe_translation == pytest.approx(2, rel=0.05)
    with pytest.raises(ValueError, match="'7dof' is unknown"):
        metrics.pose_metrics(truth, truth, '7dof')
    with pytest.raises(ValueError, match=r'must be \(N, 4, 4\)'):
        metrics.pose_metrics(truth[:, :3], truth, 'se3')


def test_rounded_poses_are_poses():
    truth, estimate = path_poses(), path_poses(seed=8)
    found = metrics.pose_metrics(estimate.round(3), truth.round(3), 'sim3')
    assert found[:4] == pytest.approx(metrics.pose_metrics(estimate, truth, 'sim3')[:4], rel=0.01)


def test_relative_errors_by_hand():
    truth = np.tile(np.eye(4), (4, 1, 1))
    truth[:, 0, 3] = [0, 1, 2, 3]
    estimate = truth.copy()
    estimate[2:, 0, 3] += 0.5  # one step of the three is half a metre too long
    estimate[2:, :3, :3] = rotation(9)
    found = metrics.pose_metrics(estimate, truth, 'se3')
    # The step after it is right in the world, but turned by 9 degrees in its own frame.
    turned = 2 * np.sin(np.radians(4.5))
    assert found.rpe_translation == pytest.approx(np.sqrt((0.5**2 + turned**2) / 3))
    assert found.rpe_rotation == pytest.approx(9 / np.sqrt(3), rel=1e-6)


def test_drift_by_hand():
    truth = np.tile(np.eye(4), (200, 1, 1))
    truth[:, 2, 3] = np.arange(200)
    estimate = truth.copy()
    estimate[:, 2, 3] *= 1.1
    # A segment of 100 m ends 101 m on, at the first frame beyond 100 m: its error is 10.1 m.
    found = metrics.kitti_drift(estimate, truth, (100,))
    assert found == pytest.approx((10.1, 0, 10), abs=1e-9)
    turned = np.array([pose(rotation(0.01 * i), p[:3, 3]) for i, p in enumerate(truth)])
    assert metrics.kitti_drift(turned, truth, (100,)).r_err == pytest.approx(1.01)
    turned[20] = np.nan
    assert metrics.kitti_drift(turned, truth, (100,)).segments == 9
    with pytest.raises(ValueError, match='199 m long, the shortest segment 300 m'):
        metrics.kitti_drift(estimate, truth, (300,))


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
    found = metrics.pose_metrics(poses, truth[numbers], 'sim3')
    assert found.ate == pytest.approx(ate, abs=6e-4)
    every = np.full(truth.shape, np.nan)
    every[numbers] = found.aligned
    drift = metrics.kitti_drift(every, truth)
    assert drift[:2] == pytest.approx((t_err, r_err), abs=6e-4)


@pytest.mark.parametrize(
    ('alignment', 'options'),
    [('se3', ['-a']), ('sim3', ['-as']), ('scale', ['-s', '--align_origin'])],
)
def test_evo_agrees(tmp_path, alignment, options):
    truth, estimate = path_poses(), metrics.scaled_poses(path_poses(seed=7), 0.3)
    for name, poses in (('truth', truth), ('estimate', estimate)):
        np.savetxt(tmp_path / name, poses[:, :3].reshape(-1, 12))
    found = metrics.pose_metrics(estimate, truth, alignment)
    environment = {**os.environ, 'HOME': str(tmp_path)}  # evo keeps settings there

    def evo(tool: str, relation: str) -> float:
        program = (
            'from importlib.metadata import entry_points; [script] = entry_points('
            f"group='console_scripts', name='evo_{tool}'); script.load()()"
        )
        shown = subprocess.run(
            [sys.executable, '-c', program, 'kitti', 'truth', 'estimate', '-r', relation, *options],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return float(re.search(r'rmse\s+([\d.]+)', shown.stdout)[1])

    assert evo('ape', 'trans_part') == pytest.approx(found.ate, abs=1e-6)
    assert evo('rpe', 'trans_part') == pytest.approx(found.rpe_translation, abs=1e-6)
    assert evo('rpe', 'angle_deg') == pytest.approx(found.rpe_rotation, abs=1e-6)
