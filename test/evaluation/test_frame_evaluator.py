"""Judging frames against ground truth and each other, with numbers worked out by hand."""

import json
import math
import weakref
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from support.bag_messages import RGB, image, odometry
from support.metrics import depth_metrics
from support.truth_recordings import images, record

from depth_ros.bags.ground_truth import GroundTruth
from depth_ros.bags.topics import Streams
from depth_ros.core.camera import Intrinsics
from depth_ros.core.metrics.depth import mean_depth_metrics
from depth_ros.core.metrics.trajectory import pose_metrics, trajectory_table
from depth_ros.core.se3 import OPTICAL_IN_BASE, pose, pose_from_list, rotation_from_vector
from depth_ros.evaluation.frame_evaluator import (
    EDGE_RADIUS,
    EXAMPLES,
    IN_FLIGHT,
    WORST,
    Judge,
    Judgeable,
    camera_step,
)
from depth_ros.inference.classes import ClassMap
from depth_ros.inference.contract import SemanticClass

SECOND = 10**9
PERIOD = SECOND // 10
# Neither the order nor the ids of Cityscapes, where road is 0 and car 13.
MODEL = (SemanticClass(0, 'car', (0, 0, 142)), SemanticClass(1, 'road', (128, 64, 128)))
CLASSES = ClassMap.read('cityscapes', MODEL)
ROAD, SKY, CAR = 0, 10, 13


def shifted(x=0.0, y=0.0, z=0.0):
    return pose(np.eye(3), [x, y, z])


def flat(value, height=6, width=8):
    return np.full((height, width), value, np.float32)


def frame(index, depth=None, rgb=None, **outputs):
    """The frame of one image of a tenth of a second; its size is that of the depth or image."""
    if rgb is None:
        rgb = RGB if depth is None else np.zeros((*depth.shape, 3), np.uint8)
    height, width = rgb.shape[:2]
    camera = Intrinsics(32.0, 32.0, (width - 1) / 2, (height - 1) / 2, width, height)
    return Judgeable(index * PERIOD, camera, 'camera', rgb, camera, depth, **outputs)


def depth_rows(depths):
    return [('/gt/depth', image(d, '32FC1', i * PERIOD)) for i, d in enumerate(depths, 1)]


def label_rows(labels):
    return [('/gt/labels', image(a, 'mono8', i * PERIOD)) for i, a in enumerate(labels, 1)]


def pose_rows(positions):
    rows = []
    for i, position in enumerate(positions, 1):
        message = odometry(i * PERIOD)
        place = message.pose.pose.position
        place.x, place.y, place.z = map(float, position)
        rows.append(('/gt/odom', message))
    return rows


def ground_truth(folder, rows, tolerance=PERIOD // 2):
    """The truth of a recording with one image and these messages."""
    path = record(folder / 'recording', [*images([PERIOD]), *rows])
    topics = {topic for topic, _ in rows}
    named = {name: f'/gt/{name}' for name in ('depth', 'labels', 'odom') if f'/gt/{name}' in topics}
    return GroundTruth(path, Streams('/cam/image', '/cam/camera_info', **named), tolerance)


def judge(folder, frames, rows=(), classes=None, metric=True, affine=False):
    """The evaluation of frames, and what was found about each, in the order it was told."""
    with ThreadPoolExecutor(2) as pool, ground_truth(folder, list(rows)) as truth:
        judge = Judge(truth, classes, metric, len(frames), pool, affine)
        judged = [j for j in map(judge.add, frames) if j is not None]
        evaluation, last = judge.finish()
    json.dumps(evaluation.numbers, allow_nan=False)  # what metrics.json can hold
    return evaluation, judged + last


# Depth


def test_rows_are_those_of_the_metrics(tmp_path):
    rng = np.random.default_rng(0)
    truth = [rng.uniform(2, 70, (6, 8)).astype(np.float32) for _ in range(3)]
    truth[0][0] = np.nan
    found = [(t * rng.uniform(0.3, 0.6, (6, 8))).astype(np.float32) for t in truth]
    found = [np.where(np.isnan(f), 9, f).astype(np.float32) for f in found]
    evaluation, judged = judge(
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
    error = judged[1].picture.error
    np.testing.assert_allclose(error, abs(found[1] * scales[1] - truth[1]) / truth[1], rtol=1e-4)
    assert np.isnan(judged[0].picture.error[0]).all()
    assert not np.isnan(judged[0].picture.error[1:]).any()


def test_a_scale_that_grows(tmp_path):
    # One percent from frame to frame, of which there are 600 a minute; 60 of them, slower.
    stamps = [i * 10 for i in range(1, 61)]
    frames = [frame(s, flat(5 / 1.01 ** (s / 10))) for s in stamps]
    rows = [('/gt/depth', image(flat(5), '32FC1', s * PERIOD)) for s in stamps]
    evaluation, _ = judge(tmp_path, frames, rows)
    drift = evaluation.numbers['depth']['scale_drift_percent_per_minute']
    assert drift == pytest.approx(100 * (1.01**60 - 1), rel=1e-4)


def test_frames_without_truth_do_not_count(tmp_path):
    rows = depth_rows([flat(5), flat(np.nan), flat(5), flat(5)])
    del rows[2]
    evaluation, _ = judge(tmp_path, [frame(i, flat(10)) for i in (1, 2, 3, 4)], rows)
    depth = evaluation.numbers['depth']
    assert depth['frames'] == 2 and depth['rows']['as_published']['abs_rel'] == pytest.approx(1)
    assert np.isnan(evaluation.frames['abs_rel']).tolist() == [False, True, True, False]
    assert evaluation.frames['stamp'] == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_depth_of_another_size(tmp_path):
    # Inverse depth grows evenly from left to right, which its interpolation keeps.
    def plane(width):
        u = (np.arange(width, dtype=np.float32) + 0.5) / width
        return np.tile(1 / (0.05 + 0.2 * u), (width * 3 // 4, 1))

    evaluation, (judged,) = judge(tmp_path, [frame(1, plane(8))], depth_rows([plane(16)]))
    picture = judged.picture
    assert picture.error.shape == picture.true_depth.shape == (12, 16)
    # The outermost columns lie beyond the centres of the smaller image's pixels.
    np.testing.assert_allclose(picture.error[:, 1:-1] - picture.error[6, 8], 0, atol=1e-6)
    assert judged.numbers['scale'] == pytest.approx(1, abs=1e-3)


def test_relative_depth_is_judged_scaled_only(tmp_path):
    evaluation, _ = judge(tmp_path, [frame(1, flat(1))], depth_rows([flat(5)]), metric=False)
    rows = evaluation.numbers['depth']['rows']
    assert rows['median_scaled']['abs_rel'] == pytest.approx(0)
    assert not [name for name in rows if name.startswith('as_published')]
    assert 'abs_rel_published' not in evaluation.frames
    assert evaluation.frames['scale'] == pytest.approx([5])


def test_scale_and_shift_are_fitted_in_each_frame(tmp_path):
    rng = np.random.default_rng(6)
    truth = [rng.uniform(2, 70, (6, 8)).astype(np.float32) for _ in range(2)]
    found = [1 / (a / t + b) for t, (a, b) in zip(truth, ((4, 0.2), (9, 0.01)), strict=True)]
    evaluation, judged = judge(
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
    for item, true in zip(judged, truth, strict=True):
        np.testing.assert_allclose(item.picture.depth, true, rtol=1e-3)  # shown in metres
        assert np.nanmax(item.picture.error) < 1e-3
    # Two depths that have nothing in common are not compared.
    steps = [frame(i, f, step=np.eye(4)) for i, f in enumerate(found, 1)]
    for affine in (False, True):
        result, _ = judge(tmp_path / str(affine), steps, depth_rows(truth), affine=affine)
        assert (result.numbers['consistency'] is None) == affine


def test_coverage_is_what_is_published_of_what_is_known(tmp_path):
    truth, published = flat(5), flat(5)
    truth[:, :4] = np.nan  # 24 of 48 pixels are known
    published[:2, 2:] = np.nan  # 8 of them are not published
    evaluation, (judged,) = judge(
        tmp_path, [frame(1, flat(5), published=published)], depth_rows([truth])
    )
    assert evaluation.frames['coverage'] == pytest.approx([16 / 24])
    assert evaluation.numbers['depth']['coverage'] == pytest.approx(16 / 24)
    # Errors are of every pixel, published or not.
    assert np.isfinite(judged.picture.error).sum() == 24
    assert judged.picture.depth is published


# Twenty columns are road and right, twelve are car and twice too far.
WIDE = np.where(np.arange(32) < 20, 10, 20).astype(np.float32)[None].repeat(6, axis=0)


def test_depth_by_class_and_near_edges(tmp_path):
    truth = np.where(WIDE == 10, ROAD, CAR).astype(np.uint8)
    wrong = np.zeros((6, 32), np.uint8)  # the model takes all for a car
    evaluation, _ = judge(
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
    evaluation, _ = judge(
        tmp_path, [frame(1, WIDE, labels=labels)], depth_rows([flat(10, 6, 32)]), CLASSES
    )
    rows = {k: v['abs_rel'] for k, v in evaluation.numbers['depth']['rows'].items()}
    assert {k: v for k, v in rows.items() if ':' in k} == pytest.approx(
        {'class:road': 0, 'class:car': 1}
    )
    assert 'near_edges' not in rows and evaluation.numbers['semantics'] is None


# Labels


def test_true_ids_become_the_models(tmp_path):
    # The model knows no sky; its 255 is a miss, that of the truth does not count.
    truth = np.array([[ROAD, ROAD, CAR, CAR, SKY, 255]], np.uint8).repeat(6, axis=0)
    ours = np.array([[1, 0, 0, 255, 1, 1]], np.uint8).repeat(6, axis=0)
    evaluation, (judged,) = judge(tmp_path, [frame(1, labels=ours)], label_rows([truth]), CLASSES)
    found = evaluation.numbers['semantics']
    confusion = np.array(found['confusion'])
    assert confusion.shape == (19, 20) and confusion.sum() == 30
    assert confusion[[ROAD, ROAD, CAR, CAR, SKY], [ROAD, CAR, CAR, 19, ROAD]].tolist() == [6] * 5
    assert found['iou'] == pytest.approx({'road': 6 / 18, 'car': 6 / 18, 'sky': 0})
    assert found['mean_iou'] == pytest.approx(2 / 9)
    assert found['pixel_accuracy'] == pytest.approx(0.4) and found['frames'] == 1
    assert evaluation.frames['label_accuracy'] == pytest.approx([0.4])
    np.testing.assert_array_equal(judged.picture.true_labels, truth)


def test_labels_of_another_size(tmp_path):
    truth = np.repeat([[ROAD, CAR], [CAR, ROAD]], 3, axis=0).astype(np.uint8)
    ours = np.where(truth == ROAD, 1, 0).astype(np.uint8)
    evaluation, _ = judge(
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
    evaluation, _ = judge(tmp_path, frames, label_rows([road, road, road]), CLASSES)
    assert evaluation.numbers['semantics']['frames'] == 3
    assert evaluation.numbers['semantics']['pixel_accuracy'] == pytest.approx(2 / 3)
    accuracy = evaluation.frames['label_accuracy']
    assert accuracy[:3].tolist() == [1, 1, 0] and math.isnan(accuracy[3])
    assert evaluation.numbers['depth'] is None


# Pictures


def test_the_worst_and_some_examples(tmp_path):
    # Of eight columns, one is wrong by this share.
    wrong = np.random.default_rng(0).permutation(np.arange(1, 31) / 100)
    wrong[[5, 11, 17, 23]] = 0.001, 0.9, 0.002, 0.003

    def found(share):
        depth = flat(10)
        depth[:, 0] *= 1 + share
        return depth

    evaluation, judged = judge(
        tmp_path, [frame(i, found(w)) for i, w in enumerate(wrong, 1)], depth_rows([flat(10)] * 30)
    )
    assert evaluation.frames['abs_rel'] == pytest.approx(wrong / 8, rel=1e-4)
    assert [j.picture.stamp_ns for j in judged] == [i * PERIOD for i in range(1, 31)]
    worst, examples = evaluation.pictures[:WORST], evaluation.pictures[WORST:]
    order = np.argsort(-wrong)[:WORST]
    assert [p.stamp_ns for p in worst] == ((order + 1) * PERIOD).tolist()
    assert [p.rank for p in worst] == list(range(1, WORST + 1))
    assert worst[0].abs_rel == pytest.approx(0.9 / 8)
    # Evenly spread are frames 5, 11, 17 and 23; the second is the worst of all.
    assert [p.stamp_ns for p in examples] == [6 * PERIOD, 18 * PERIOD, 24 * PERIOD]
    assert [p.rank for p in examples] == [0] * 3


def test_examples_have_truth_where_it_is_rare(tmp_path):
    rows = depth_rows([flat(5)] * 60)[2::3]
    evaluation, _ = judge(tmp_path, [frame(i, flat(5)) for i in range(1, 61)], rows)
    # Without errors the first ten are the worst, frames 3, 6, ..., 30 of 60. Of 60, the examples
    # are due at the 12th, 24th, 36th and 48th, which have truth themselves.
    assert [p.stamp_ns // PERIOD for p in evaluation.pictures] == [*range(3, 31, 3), 36, 48]
    evaluation, _ = judge(tmp_path / '2', [frame(i, flat(5)) for i in range(1, 41)], rows[:13])
    # Of 40 they are due at the 8th, 16th, 24th and 32nd: the next with truth are 9, 18, 24, 33.
    assert [p.stamp_ns // PERIOD for p in evaluation.pictures] == [*range(3, 31, 3), 33]


def test_frames_come_out_in_the_order_they_went_in(tmp_path):
    # The first of each four takes long.
    frames = [
        frame(i, flat(5, 300, 400) if i % 4 == 1 else flat(5), numbers={'age_ms': float(i)})
        for i in range(1, 17)
    ]
    rows = [('/gt/depth', image(f.depth, '32FC1', f.stamp)) for f in frames]
    evaluation, judged = judge(tmp_path, frames, rows)
    assert evaluation.frames['age_ms'].tolist() == list(range(1, 17))
    assert [j.numbers['stamp'] for j in judged] == pytest.approx(np.arange(1, 17) / 10)


class _Image(np.ndarray):
    """An image that a set can hold."""

    __hash__ = object.__hash__

    def __eq__(self, other):
        return self is other


def test_few_pictures_are_kept(tmp_path):
    alive: weakref.WeakSet = weakref.WeakSet()
    most = 0
    truth = ground_truth(tmp_path, depth_rows([flat(5)]), tolerance=10**12)
    with ThreadPoolExecutor(2) as pool, truth:
        judge = Judge(truth, None, True, 500, pool)
        for i in range(1, 501):
            one = frame(i, flat(5), step=shifted(x=0.1))
            one.rgb = one.rgb.view(_Image)
            alive.add(one.rgb)
            judge.add(one)
            most = max(most, len(alive))
        evaluation, _ = judge.finish()
    # Frames in flight are compared with the ones before them.
    assert WORST + EXAMPLES <= most <= WORST + EXAMPLES + 2 * (IN_FLIGHT + 1)
    assert len(evaluation.frames['stamp']) == 500


# Trajectories


CORNERS = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1)]


def test_trajectory_is_that_of_the_metrics(tmp_path):
    found = [shifted(*c) for c in CORNERS]
    found[3] = pose(rotation_from_vector([0, 0, 0.3]), [0.2, 1.1, 0])
    frames = [frame(i, pose=p) for i, p in enumerate(found, 1)]
    frames.append(frame(6))  # its motion is not known
    frames.append(frame(7, pose=shifted(9)))  # its truth is not known
    evaluation, _ = judge(tmp_path, frames, pose_rows(2 * np.array(CORNERS)))
    truth = np.array([shifted(*c) for c in 2 * np.array(CORNERS)])
    expected = trajectory_table(np.array(found), truth)
    numbers = dict(evaluation.numbers['trajectory'])
    assert numbers.pop('poses') == expected.pop('frames') == 5
    assert numbers == pytest.approx(expected)
    aligned = pose_metrics(np.array(found), truth, 'sim3').aligned[:, :3, 3]
    np.testing.assert_allclose(evaluation.aligned, aligned)
    errors = evaluation.frames['position_error']
    assert errors[:5] == pytest.approx(np.linalg.norm(aligned - truth[:, :3, 3], axis=1))
    assert np.isnan(errors[5:]).all()
    np.testing.assert_allclose(evaluation.truth, 2 * np.array(CORNERS))
    assert evaluation.estimate.shape == (6, 3)
    stamps, poses, true_poses = evaluation.poses
    assert stamps.tolist() == [i * PERIOD for i in (1, 2, 3, 4, 5, 7)] and poses.shape == (6, 4, 4)
    assert np.isnan(true_poses[5]).all() and np.allclose(true_poses[:5], truth)
    assert evaluation.numbers['odometry']['poses'] == 6


def test_trajectory_that_is_half_as_large(tmp_path):
    frames = [frame(i, pose=shifted(*c)) for i, c in enumerate(CORNERS, 1)]
    evaluation, _ = judge(tmp_path, frames, pose_rows(2 * np.array(CORNERS)))
    numbers = evaluation.numbers['trajectory']
    assert numbers['scale'] == pytest.approx(2) and numbers['length'] == pytest.approx(8)
    assert numbers['ate_sim3'] == pytest.approx(0, abs=1e-9)
    # Half of each corner's distance to their mean, whose mean square is 0.64.
    assert numbers['ate_se3'] == pytest.approx(math.sqrt(0.64))
    assert evaluation.frames['position_error'] == pytest.approx(np.zeros(5), abs=1e-9)
    assert evaluation.numbers['odometry'] == {'poses': 5, 'length': pytest.approx(4)}


@pytest.mark.parametrize(
    'found, problem',
    [([(0, 0, 0)], 'two or more'), ([(1, 1, 1)] * 4, 'the estimate does not move')],
)
def test_trajectory_that_cannot_be_judged(tmp_path, found, problem):
    frames = [frame(i, pose=shifted(*c)) for i, c in enumerate(found, 1)]
    evaluation, _ = judge(tmp_path, frames, pose_rows(CORNERS))
    assert evaluation.numbers['trajectory'] is None and evaluation.aligned.shape == (0, 3)
    (note,) = evaluation.notes
    assert note.startswith('the trajectory cannot be judged: ') and problem in note
    assert len(evaluation.truth) == 5 and len(evaluation.estimate) == len(found)


# Without truth


WALL_DISTANCE, WALL_STEP = 8.0, 3
"""Metres to a wall, and pixels by which the camera passes it from frame to frame."""


def wall_frames(count, depth=lambda index: WALL_DISTANCE, spacing=1):
    """Frames of a camera that moves to the right before a patterned wall."""
    size = 48, 64 + WALL_STEP * count
    noise = cv2.GaussianBlur(np.random.default_rng(0).uniform(0, 255, (*size, 3)), (0, 0), 2)
    wall = cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    for i in range(count):
        rgb = wall[:, WALL_STEP * i : WALL_STEP * i + 64]
        step = shifted(x=WALL_STEP * WALL_DISTANCE / 32) if i else None
        yield frame(spacing * (i + 1), flat(depth(i), 48, 64), rgb, step=step)


def test_true_depth_and_motion_explain_the_images(tmp_path):
    evaluation, _ = judge(tmp_path, list(wall_frames(6)))
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
    assert [p.rank for p in evaluation.pictures] == [1, 2, 3, 4, 5]


def test_depth_whose_scale_grows(tmp_path):
    # A percent from frame to frame, of which there are six a minute.
    frames = list(wall_frames(7, lambda i: WALL_DISTANCE * 1.01**i, spacing=100))
    evaluation, _ = judge(tmp_path, frames)
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
    evaluation, _ = judge(tmp_path, frames)
    known = np.isfinite(evaluation.frames['inconsistency'])
    assert known.tolist() == [False, False, True, False, False, False]
    assert evaluation.numbers['consistency']['frames'] == 1


def test_motion_out_of_view_is_no_comparison(tmp_path):
    frames = list(wall_frames(2))
    frames[1].step = shifted(x=1000.0)
    evaluation, _ = judge(tmp_path, frames)
    assert evaluation.numbers['consistency'] is None and list(evaluation.frames) == ['stamp']


def test_pixels_that_are_not_published_are_not_compared(tmp_path):
    frames = list(wall_frames(2))
    for one in frames:
        one.published = one.depth.copy()
        one.published[:24] = np.nan
        one.depth[:24] = 1  # would be far off
    evaluation, _ = judge(tmp_path, frames)
    assert evaluation.frames['inconsistency'][1] == pytest.approx(0, abs=1e-6)


def test_a_frame_known_to_be_wrong_ranks_before_one_that_seems_so(tmp_path):
    frames = list(wall_frames(4))
    frames[2].step = shifted(x=-1.0)
    rows = [('/gt/depth', image(flat(WALL_DISTANCE, 48, 64), '32FC1', i * PERIOD)) for i in (1, 4)]
    frames[3].depth[:, :10] *= 1.01
    evaluation, _ = judge(tmp_path, frames, rows)
    assert evaluation.frames['photometric'][2] > 0.1 > evaluation.frames['abs_rel'][3] > 0
    assert [p.stamp_ns // PERIOD for p in evaluation.pictures] == [4, 1, 3, 2]
    assert [p.rank for p in evaluation.pictures] == [1, 2, 3, 4]


def test_loops(tmp_path):
    # A metre and a metre are said to be 2.2 metres, then 2 metres and a turn by 0.02 rad.
    turn = pose(rotation_from_vector([0, 0.02, 0]), [0, 0, 2])
    ahead = shifted(z=1)
    frames = [
        frame(1, loop=(ahead, ahead, shifted(z=2.2))),
        frame(2),
        frame(3, loop=(ahead, ahead, turn)),
        frame(4, loop=(np.eye(4),) * 3),
    ]
    numbers = judge(tmp_path, frames)[0].numbers['consistency']
    assert numbers == pytest.approx(
        {
            'loop_translation_percent': 100 * (0.1 + 0) / 2,
            'loop_rotation_deg': math.degrees(0.02) / 2,
        }
    )


def test_step_of_the_camera():
    # The base drives two metres ahead, x, which is the camera's z.
    extrinsic = pose_from_list(OPTICAL_IN_BASE)
    start = pose(rotation_from_vector([0, 0, 1]), [3, 4, 5])
    step = camera_step(start, start @ shifted(x=2), extrinsic)
    np.testing.assert_allclose(step, shifted(z=2), atol=1e-12)


# What is missing or damaged


def test_no_frame_at_all(tmp_path):
    evaluation, judged = judge(tmp_path, [], depth_rows([flat(5)]) + pose_rows(CORNERS), CLASSES)
    assert judged == evaluation.pictures == evaluation.notes == [] and evaluation.frames == {}
    assert evaluation.numbers == {
        'depth': None,
        'semantics': None,
        'trajectory': None,
        'consistency': None,
        'odometry': {'poses': 0, 'length': 0},
    }


def test_odometry_only(tmp_path):
    frames = [frame(i, pose=shifted(*c)) for i, c in enumerate(CORNERS, 1)]
    evaluation, _ = judge(tmp_path, frames)
    assert evaluation.numbers['odometry'] == {'poses': 5, 'length': pytest.approx(4)}
    assert {k: v for k, v in evaluation.numbers.items() if v} == {
        'odometry': evaluation.numbers['odometry']
    }
    np.testing.assert_array_equal(evaluation.estimate, CORNERS)
    assert list(evaluation.frames) == ['stamp'] and evaluation.truth.shape == (0, 3)
    # Examples of five frames, none of which is known to be worse than another.
    assert [p.stamp_ns // PERIOD for p in evaluation.pictures] == [1, 2, 3, 4]
    assert evaluation.pictures[0].depth is None


def test_problems_of_the_truth_are_notes(tmp_path):
    rows = depth_rows([flat(5)] * 3)
    for _, message in rows[1:]:
        message.encoding = 'mono16'
    evaluation, _ = judge(tmp_path, [frame(i, flat(5)) for i in (1, 2, 3)], rows)
    (note,) = evaluation.notes
    assert note.startswith('true depth: depth encoding') and note.endswith('(2 times)')
    assert evaluation.numbers['depth']['frames'] == 1
