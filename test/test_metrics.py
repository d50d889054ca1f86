"""Metrics against cases worked out by hand, then properties."""

import subprocess
import sys

import numpy as np
import pytest

from depth_ros import metrics

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
        'abs_rel', 'sq_rel', 'rmse', 'rmse_log', 'a1', 'a2', 'a3')


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
        'import sys, depth_ros.metrics; '
        'print([m for m in ("rclpy", "evo", "torch", "rosbags", "cv2") if m in sys.modules])'
    )
    shown = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == '[]'
