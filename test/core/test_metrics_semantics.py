"""Metrics of labels against cases worked out by hand, then properties."""

import numpy as np
import pytest

from depth_ros.core.metrics.semantics import confusion, edge_mask, iou, mean_iou


def test_iou_by_hand():
    truth = np.array([[0, 0, 0, 1], [1, 1, 255, 255]])
    predicted = np.array([[0, 0, 1, 1], [1, 255, 0, 2]])
    matrix = confusion(predicted, truth, 3)
    assert matrix.tolist() == [[2, 1, 0, 0], [0, 2, 0, 1], [0, 0, 0, 0]]
    scores = iou(matrix)
    assert scores[:2] == pytest.approx([2 / 3, 2 / 4]) and np.isnan(scores[2])
    assert mean_iou(matrix) == pytest.approx((2 / 3 + 2 / 4) / 2)


def test_a_class_only_predicted_scores_zero_but_is_not_averaged():
    matrix = confusion(np.array([[0, 1]]), np.array([[0, 0]]), 2)
    assert iou(matrix).tolist() == [0.5, 0]
    assert mean_iou(matrix) == 0.5


def test_confusions_add_up():
    rng = np.random.default_rng(2)
    truth, predicted = rng.integers(0, 19, (2, 30, 40))
    halves = [confusion(predicted[i : i + 15], truth[i : i + 15], 19) for i in (0, 15)]
    assert np.array_equal(sum(halves), confusion(predicted, truth, 19))


def test_label_errors_name_the_cause():
    with pytest.raises(ValueError, match='prediction has class id 7, but there are 3'):
        confusion(np.array([[7]]), np.array([[0]]), 3)
    with pytest.raises(ValueError, match='differ'):
        confusion(np.zeros((2, 2), int), np.zeros((2, 3), int), 3)
    with pytest.raises(ValueError, match='255 everywhere'):
        mean_iou(confusion(np.array([[1]]), np.array([[255]]), 3))


def test_edges_by_hand():
    labels = np.array([[0, 0, 0, 0, 1, 1, 1, 255, 2]])
    assert edge_mask(labels, 1).astype(int).tolist() == [[0, 0, 0, 1, 1, 0, 0, 0, 0]]
    assert edge_mask(labels, 2).astype(int).tolist() == [[0, 0, 1, 1, 1, 1, 0, 0, 0]]
    assert not edge_mask(np.full((4, 4), 3), 9).any()
    with pytest.raises(ValueError, match='radius 0'):
        edge_mask(labels, 0)


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
    assert np.array_equal(edge_mask(labels, radius), expected)
