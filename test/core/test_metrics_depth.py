"""Depth metrics against cases worked out by hand, then properties."""

import numpy as np
import pytest
from support.metrics import depth_metrics

from depth_ros.core.metrics.depth import (
    DepthMetrics,
    aligned_depth,
    depth_table,
    garg_crop,
    mean_depth_metrics,
    prepare_depth,
)

SHAPE = (4, 5)


def constant(value: float) -> np.ndarray:
    return np.full(SHAPE, value, np.float32)


def test_depth_metrics_by_hand():
    truth = np.array([[2.0, 4.0], [10.0, 20.0]])
    predicted = np.array([[3.0, 4.0], [8.0, 26.0]])
    # |e|/g: .5 0 .2 .3; e^2/g: .5 0 .4 1.8; e^2: 1 0 4 36; ratios: 1.5 1 1.25 1.3
    found = depth_metrics(predicted, truth)
    logs = np.log([1.5, 1.0, 0.8, 1.3])
    assert found == pytest.approx(
        (0.25, 0.675, np.sqrt(41 / 4), np.sqrt(np.mean(logs**2)), 0.25, 1.0, 1.0)
    )
    assert DepthMetrics._fields == (
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
    assert depth_metrics(truth, truth) == (0, 0, 0, 0, 1, 1, 1)


def test_median_scaling_removes_any_unit():
    rng = np.random.default_rng(1)
    truth = rng.uniform(1, 40, SHAPE)
    predicted = truth * rng.uniform(0.9, 1.1, SHAPE)
    scaled = depth_metrics(predicted * 0.037, truth, median_scaling=True)
    assert scaled == pytest.approx(depth_metrics(predicted, truth, median_scaling=True))
    assert depth_metrics(constant(7), constant(3), median_scaling=True).abs_rel == 0
    assert depth_metrics(constant(6), constant(3)).abs_rel == 1


def test_pixels_that_do_not_count():
    truth, predicted = constant(10), constant(20)
    truth[0] = 0, np.nan, 80, 90, 1e-3
    predicted[1] = np.nan, np.inf, 0, -1, 20
    assert depth_metrics(predicted, truth).abs_rel == 1
    truth[0, 3], predicted[0, 3] = 90, 90  # counts only with a larger limit, and is right there
    found = depth_metrics(predicted, truth, max_depth=100)
    assert found.abs_rel == pytest.approx((11 + 0 + 60 / 80) / 13)


def test_prediction_is_clamped_after_scaling():
    assert depth_metrics(constant(500), constant(40)).abs_rel == 1  # 500 -> 80
    truth = np.array([[1.0, 1.0, 2.0]])
    predicted = np.array([[1.0, 1.0, 400.0]])
    assert depth_metrics(
        predicted, truth, median_scaling=True, max_depth=3
    ).abs_rel == pytest.approx((0 + 0 + 0.5) / 3)


def test_garg_crop_has_the_published_corners():
    rows, columns = garg_crop(375, 1242)
    assert (rows.start, rows.stop, columns.start, columns.stop) == (153, 371, 44, 1197)
    truth, predicted = np.full((375, 1242), 5.0), np.full((375, 1242), 10.0)
    predicted[153:371, 44:1197] = 5.0
    assert depth_metrics(predicted, truth, crop='garg').abs_rel == 0
    assert depth_metrics(predicted, truth).abs_rel > 0
    predicted[152], predicted[371] = 99, 99
    predicted[:, 43], predicted[:, 1197] = 99, 99
    assert depth_metrics(predicted, truth, crop='garg').abs_rel == 0


def test_depth_errors_name_the_cause():
    with pytest.raises(ValueError, match='no valid pixels'):
        depth_metrics(constant(5), constant(np.nan))
    with pytest.raises(ValueError, match=r'\(4, 5\) and ground truth \(2, 2\)'):
        depth_metrics(constant(5), np.ones((2, 2)))
    with pytest.raises(ValueError, match="crop 'eigen' is unknown"):
        depth_metrics(constant(5), constant(5), crop='eigen')
    with pytest.raises(ValueError, match='no images'):
        mean_depth_metrics([])


def test_images_weigh_the_same():
    one = depth_metrics(constant(6), constant(3))
    other = depth_metrics(np.full((100, 100), 3.0), np.full((100, 100), 3.0))
    assert mean_depth_metrics([one, other]).abs_rel == pytest.approx(0.5)


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
    prepared = prepare_depth(predicted, truth, max_depth=50, crop='garg', median_scaling=True)
    assert prepared.scale == pytest.approx(ratio) and prepared.valid.sum() == len(pairs)
    found = depth_metrics(predicted, truth, max_depth=50, crop='garg', median_scaling=True)
    assert found.abs_rel == pytest.approx(np.mean(errors), rel=1e-12)


def test_scale_and_shift_of_inverse_depth():
    """MiDaS's protocol, against numpy's least squares."""
    rng = np.random.default_rng(4)
    truth = rng.uniform(1, 100, (40, 50))
    truth[rng.random(truth.shape) < 0.5] = 0
    exact = 1 / (7 / np.where(truth > 0, truth, 3) + 0.3)
    prepared = prepare_depth(exact, truth, affine=True)
    assert prepared.scale == pytest.approx(7) and prepared.shift == pytest.approx(-0.3 / 7)
    np.testing.assert_allclose(prepared.depth[prepared.valid], truth[prepared.valid], rtol=1e-9)

    found = 1 / (1 / exact + rng.uniform(0, 1, truth.shape))
    known = (truth > 1e-3) & (truth < 80)
    x, y = 1 / found[known], 1 / truth[known]
    (a, b), *_ = np.linalg.lstsq(np.stack([x, np.ones_like(x)], 1), y, rcond=None)
    expected = 1 / np.maximum(a * x + b, 1 / 80)  # what is at infinity or behind is at the cap
    g = truth[known]
    assert (a * x + b < 1 / 80).any()
    row = depth_metrics(found, truth, affine=True)
    assert row.abs_rel == pytest.approx(np.mean(abs(expected - g) / g))
    # One factor would judge the shift, of which such a network knows nothing.
    assert row.abs_rel < depth_metrics(found, truth, median_scaling=True).abs_rel

    table = depth_table(found, truth, factor=None, affine=True)
    assert table.aligned is table.rows['scaled_and_shifted'] == row
    assert {'scaled_and_shifted_50m', '0_to_10m'} < set(table.rows)
    assert not {'median_scaled', 'as_published'} & set(table.rows)
    assert aligned_depth(found, table.scale, table.shift)[known] == pytest.approx(
        np.where(a * x + b > 0, 1 / (a * x + b), np.inf)
    )


def test_flat_depth_has_a_scale_and_no_shift():
    prepared = prepare_depth(
        np.full((2, 2), 2.0), np.array([[1.0, 3, 5, 7]]).reshape(2, 2), affine=True
    )
    assert prepared.scale == 2 and prepared.shift == 0


def test_improved_truth_counts_beyond_the_cap_but_predictions_are_clamped():
    truth, predicted = np.array([[50.0, 100.0, 0.0]]), np.array([[50.0, 100.0, 7.0]])
    assert depth_metrics(predicted, truth).abs_rel == 0
    assert depth_metrics(predicted, truth, limit_truth=False).abs_rel == pytest.approx(0.1)
