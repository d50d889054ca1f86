"""Scores of single frames: depth, labels, and what neighbours say of each other."""

import math

import numpy as np
import pytest
from support.bag_messages import image
from support.evaluated_frames import (
    CAR,
    CLASSES,
    PERIOD,
    ROAD,
    SKY,
    WALL_DISTANCE,
    depth_rows,
    evaluate,
    flat,
    frame,
    label_rows,
    shifted,
    wall_frames,
)
from support.metrics import depth_metrics

from depth_ros.core.metrics.depth import mean_depth_metrics
from depth_ros.evaluation.frame_scores import EDGE_RADIUS

# Depth


def test_rows_are_those_of_the_metrics(tmp_path):
    rng = np.random.default_rng(0)
    truth = [rng.uniform(2, 70, (6, 8)).astype(np.float32) for _ in range(3)]
    truth[0][0] = np.nan
    found = [(t * rng.uniform(0.3, 0.6, (6, 8))).astype(np.float32) for t in truth]
    found = [np.where(np.isnan(f), 9, f).astype(np.float32) for f in found]
    evaluation, scores = evaluate(
        tmp_path, [frame(i, f) for i, f in enumerate(found, 1)], depth_rows(truth)
    )
    depth, columns = evaluation.numbers['depth'], evaluation.frames
    pairs = list(zip(found, truth, strict=True))
    for name, options in (
        ('median_scaled', {'median_scaling': True}),
        ('as_published', {}),
        ('median_scaled_50m', {'median_scaling': True, 'max_depth': 50}),
        ('as_published_50m', {'max_depth': 50}),
    ):
        single = [depth_metrics(f, t, **options) for f, t in pairs]
        assert depth['rows'][name] == pytest.approx(mean_depth_metrics(single)._asdict())
        column = {'median_scaled': 'abs_rel', 'as_published': 'abs_rel_published'}.get(name)
        if column:
            assert columns[column] == pytest.approx([s.abs_rel for s in single])
    scales = [np.nanmedian(t) / np.median(f[np.isfinite(t)]) for f, t in pairs]
    assert columns['scale'] == pytest.approx(scales)
    assert depth['frames'] == 3 and depth['scale_median'] == pytest.approx(np.median(scales))
    assert depth['scale_spread'] == pytest.approx(np.std(scales / np.median(scales)))
    error = scores[1].example.error
    np.testing.assert_allclose(error, abs(found[1] * scales[1] - truth[1]) / truth[1], rtol=1e-4)
    assert np.isnan(scores[0].example.error[0]).all()
    assert not np.isnan(scores[0].example.error[1:]).any()


def test_a_scale_that_grows(tmp_path):
    # One percent from frame to frame, of which there are 600 a minute; 60 of them, slower.
    stamps = [i * 10 for i in range(1, 61)]
    frames = [frame(s, flat(5 / 1.01 ** (s / 10))) for s in stamps]
    rows = [('/gt/depth', image(flat(5), '32FC1', s * PERIOD)) for s in stamps]
    evaluation, _ = evaluate(tmp_path, frames, rows)
    drift = evaluation.numbers['depth']['scale_drift_percent_per_minute']
    assert drift == pytest.approx(100 * (1.01**60 - 1), rel=1e-4)


def test_frames_without_truth_do_not_count(tmp_path):
    rows = depth_rows([flat(5), flat(np.nan), flat(5), flat(5)])
    del rows[2]
    evaluation, _ = evaluate(tmp_path, [frame(i, flat(10)) for i in (1, 2, 3, 4)], rows)
    depth = evaluation.numbers['depth']
    assert depth['frames'] == 2 and depth['rows']['as_published']['abs_rel'] == pytest.approx(1)
    assert np.isnan(evaluation.frames['abs_rel']).tolist() == [False, True, True, False]
    assert evaluation.frames['stamp'] == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_depth_of_another_size(tmp_path):
    # Inverse depth grows evenly from left to right, which its interpolation keeps.
    def plane(width):
        u = (np.arange(width, dtype=np.float32) + 0.5) / width
        return np.tile(1 / (0.05 + 0.2 * u), (width * 3 // 4, 1))

    evaluation, (scores,) = evaluate(tmp_path, [frame(1, plane(8))], depth_rows([plane(16)]))
    example = scores.example
    assert example.error.shape == example.true_depth.shape == (12, 16)
    # The outermost columns lie beyond the centres of the smaller image's pixels.
    np.testing.assert_allclose(example.error[:, 1:-1] - example.error[6, 8], 0, atol=1e-6)
    assert scores.numbers['scale'] == pytest.approx(1, abs=1e-3)


def test_relative_depth_is_judged_scaled_only(tmp_path):
    evaluation, _ = evaluate(tmp_path, [frame(1, flat(1))], depth_rows([flat(5)]), metric=False)
    rows = evaluation.numbers['depth']['rows']
    assert rows['median_scaled']['abs_rel'] == pytest.approx(0)
    assert not [name for name in rows if name.startswith('as_published')]
    assert 'abs_rel_published' not in evaluation.frames
    assert evaluation.frames['scale'] == pytest.approx([5])


def test_scale_and_shift_are_fitted_in_each_frame(tmp_path):
    rng = np.random.default_rng(6)
    truth = [rng.uniform(2, 70, (6, 8)).astype(np.float32) for _ in range(2)]
    found = [1 / (a / t + b) for t, (a, b) in zip(truth, ((4, 0.2), (9, 0.01)), strict=True)]
    evaluation, scores = evaluate(
        tmp_path,
        [frame(i, f) for i, f in enumerate(found, 1)],
        depth_rows(truth),
        metric=False,
        affine=True,
    )
    rows = evaluation.numbers['depth']['rows']
    assert rows['scaled_and_shifted']['abs_rel'] == pytest.approx(0, abs=1e-4)
    assert 'median_scaled' not in rows and 'as_published' not in rows
    assert evaluation.frames['scale'] == pytest.approx([4, 9], rel=1e-3)
    for item, true in zip(scores, truth, strict=True):
        np.testing.assert_allclose(item.example.depth, true, rtol=1e-3)  # shown in metres
        assert np.nanmax(item.example.error) < 1e-3
    # Two depths that have nothing in common are not compared.
    steps = [frame(i, f, step=np.eye(4)) for i, f in enumerate(found, 1)]
    for affine in (False, True):
        result, _ = evaluate(tmp_path / str(affine), steps, depth_rows(truth), affine=affine)
        assert (result.numbers['consistency'] is None) == affine


def test_coverage_is_what_is_published_of_what_is_known(tmp_path):
    truth, published = flat(5), flat(5)
    truth[:, :4] = np.nan  # 24 of 48 pixels are known
    published[:2, 2:] = np.nan  # 8 of them are not published
    evaluation, (scores,) = evaluate(
        tmp_path, [frame(1, flat(5), published=published)], depth_rows([truth])
    )
    assert evaluation.frames['coverage'] == pytest.approx([16 / 24])
    assert evaluation.numbers['depth']['coverage'] == pytest.approx(16 / 24)
    # Errors are of every pixel, published or not.
    assert np.isfinite(scores.example.error).sum() == 24
    assert scores.example.depth is published


# Twenty columns are road and right, twelve are car and twice too far.
WIDE = np.where(np.arange(32) < 20, 10, 20).astype(np.float32)[None].repeat(6, axis=0)


def test_depth_by_class_and_near_edges(tmp_path):
    truth = np.where(WIDE == 10, ROAD, CAR).astype(np.uint8)
    wrong = np.zeros((6, 32), np.uint8)  # the model takes all for a car
    evaluation, _ = evaluate(
        tmp_path,
        [frame(1, WIDE, labels=wrong)],
        depth_rows([flat(10, 6, 32)]) + label_rows([truth]),
        CLASSES,
    )
    rows = {k: v['abs_rel'] for k, v in evaluation.numbers['depth']['rows'].items()}
    assert rows['median_scaled'] == pytest.approx(12 / 32)
    assert {k: v for k, v in rows.items() if ':' in k} == pytest.approx(
        {'class:road': 0, 'class:car': 1}
    )
    assert EDGE_RADIUS == 5 and rows['near_edges'] == pytest.approx(0.5)
    names = list(rows)
    assert names.index('near_edges') < names.index('class:road')


def test_depth_by_class_as_predicted_where_no_label_is_true(tmp_path):
    labels = np.where(WIDE == 10, 1, 255).astype(np.uint8)
    labels[:, 30:] = 0
    evaluation, _ = evaluate(
        tmp_path, [frame(1, WIDE, labels=labels)], depth_rows([flat(10, 6, 32)]), CLASSES
    )
    rows = {k: v['abs_rel'] for k, v in evaluation.numbers['depth']['rows'].items()}
    assert {k: v for k, v in rows.items() if ':' in k} == pytest.approx(
        {'class:road (predicted)': 0, 'class:car (predicted)': 1}
    )
    assert 'near_edges' not in rows and evaluation.numbers['semantics'] is None


# Labels


def test_true_ids_become_the_models(tmp_path):
    # The model knows no sky; its 255 is a miss, that of the truth does not count.
    truth = np.array([[ROAD, ROAD, CAR, CAR, SKY, 255]], np.uint8).repeat(6, axis=0)
    ours = np.array([[1, 0, 0, 255, 1, 1]], np.uint8).repeat(6, axis=0)
    evaluation, (scores,) = evaluate(
        tmp_path, [frame(1, labels=ours)], label_rows([truth]), CLASSES
    )
    found = evaluation.numbers['semantics']
    confusion = np.array(found['confusion'])
    assert confusion.shape == (19, 20) and confusion.sum() == 30
    assert confusion[[ROAD, ROAD, CAR, CAR, SKY], [ROAD, CAR, CAR, 19, ROAD]].tolist() == [6] * 5
    assert found['iou'] == pytest.approx({'road': 6 / 18, 'car': 6 / 18, 'sky': 0})
    assert found['mean_iou'] == pytest.approx(2 / 9)
    assert found['pixel_accuracy'] == pytest.approx(0.4) and found['frames'] == 1
    assert evaluation.frames['label_accuracy'] == pytest.approx([0.4])
    np.testing.assert_array_equal(scores.example.true_labels, truth)


def test_labels_of_another_size(tmp_path):
    truth = np.repeat([[ROAD, CAR], [CAR, ROAD]], 3, axis=0).astype(np.uint8)
    ours = np.where(truth == ROAD, 1, 0).astype(np.uint8)
    evaluation, _ = evaluate(
        tmp_path, [frame(1, labels=ours)], label_rows([truth.repeat(2, 0).repeat(2, 1)]), CLASSES
    )
    assert evaluation.numbers['semantics']['pixel_accuracy'] == 1
    assert evaluation.numbers['semantics']['iou'] == {'road': 1, 'car': 1}


def test_labels_of_several_frames_add_up(tmp_path):
    road = np.full((6, 8), ROAD, np.uint8)
    frames = [
        frame(i, labels=np.full((6, 8), label, np.uint8))
        for i, label in ((1, 1), (2, 1), (3, 0), (4, 1))
    ]
    evaluation, _ = evaluate(tmp_path, frames, label_rows([road, road, road]), CLASSES)
    assert evaluation.numbers['semantics']['frames'] == 3
    assert evaluation.numbers['semantics']['pixel_accuracy'] == pytest.approx(2 / 3)
    accuracy = evaluation.frames['label_accuracy']
    assert accuracy[:3].tolist() == [1, 1, 0] and math.isnan(accuracy[3])
    assert evaluation.numbers['depth'] is None


# Without truth
def test_true_depth_and_motion_explain_the_images(tmp_path):
    evaluation, _ = evaluate(tmp_path, list(wall_frames(6)))
    columns, numbers = evaluation.frames, evaluation.numbers['consistency']
    for name in ('photometric', 'photometric_static', 'inconsistency', 'scale_step'):
        assert np.isnan(columns[name]).tolist() == [True] + 5 * [False]
    assert (columns['photometric'][1:] < 0.01).all()
    assert (columns['photometric_static'][1:] > 0.1).all()
    assert columns['inconsistency'][1:] == pytest.approx(np.zeros(5), abs=1e-6)
    assert columns['scale_step'][1:] == pytest.approx(np.ones(5))
    assert numbers['frames'] == 5 and numbers['inconsistency'] == pytest.approx(0, abs=1e-6)
    assert numbers['explained_percent'] == pytest.approx(
        100 * (1 - columns['photometric'][1:].sum() / columns['photometric_static'][1:].sum())
    )
    assert numbers['explained_percent'] > 95
    assert numbers['scale_step_spread_percent'] == pytest.approx(0, abs=1e-4)
    assert numbers['scale_drift_percent_per_minute'] is None  # half a second is too short
    assert evaluation.numbers['depth'] is evaluation.numbers['trajectory'] is None
    assert [p.rank for p in evaluation.examples] == [1, 2, 3, 4, 5]


def test_depth_whose_scale_grows(tmp_path):
    # A percent from frame to frame, of which there are six a minute.
    frames = list(wall_frames(7, lambda i: WALL_DISTANCE * 1.01**i, spacing=100))
    evaluation, _ = evaluate(tmp_path, frames)
    assert evaluation.frames['scale_step'][1:] == pytest.approx([1 / 1.01] * 6, rel=1e-5)
    # |1.01 - 1| / (1.01 + 1)
    assert evaluation.frames['inconsistency'][1:] == pytest.approx([0.01 / 2.01] * 6, rel=1e-3)
    drift = evaluation.numbers['consistency']['scale_drift_percent_per_minute']
    assert drift == pytest.approx(100 * (1.01**-6 - 1), rel=1e-3)


def test_what_cannot_be_compared_is_left_out(tmp_path):
    frames = list(wall_frames(6))
    frames[1].step = None
    frames[3].depth = None
    frames[5].view = frames[5].view.cropped(1, 0, 64, 48)
    evaluation, _ = evaluate(tmp_path, frames)
    known = np.isfinite(evaluation.frames['inconsistency'])
    assert known.tolist() == [False, False, True, False, False, False]
    assert evaluation.numbers['consistency']['frames'] == 1


def test_motion_out_of_view_is_no_comparison(tmp_path):
    frames = list(wall_frames(2))
    frames[1].step = shifted(x=1000.0)
    evaluation, _ = evaluate(tmp_path, frames)
    assert evaluation.numbers['consistency'] is None and list(evaluation.frames) == ['stamp']


def test_pixels_that_are_not_published_are_not_compared(tmp_path):
    frames = list(wall_frames(2))
    for one in frames:
        one.published = one.depth.copy()
        one.published[:24] = np.nan
        one.depth[:24] = 1  # would be far off
    evaluation, _ = evaluate(tmp_path, frames)
    assert evaluation.frames['inconsistency'][1] == pytest.approx(0, abs=1e-6)
