"""Judging frames against ground truth and each other, with numbers worked out by hand."""

import math
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support.bag_messages import image
from support.evaluated_frames import (
    CLASSES,
    PERIOD,
    WALL_DISTANCE,
    depth_rows,
    evaluate,
    flat,
    frame,
    ground_truth,
    pose_rows,
    shifted,
    wall_frames,
)

from depth_ros.core.depth_motion import Moved
from depth_ros.core.metrics.baselines import trajectory_baselines
from depth_ros.core.metrics.trajectory import pose_metrics, trajectory_table
from depth_ros.core.se3 import OPTICAL_IN_BASE, pose, pose_from_list, rotation_from_vector
from depth_ros.evaluation.frame_evaluator import (
    EXAMPLES,
    IN_FLIGHT,
    WORST,
    FrameEvaluator,
    camera_step,
)

# Pictures


def test_the_worst_and_some_examples(tmp_path):
    # Of eight columns, one is wrong by this share.
    wrong = np.random.default_rng(0).permutation(np.arange(1, 31) / 100)
    wrong[[5, 11, 17, 23]] = 0.001, 0.9, 0.002, 0.003

    def found(share):
        depth = flat(10)
        depth[:, 0] *= 1 + share
        return depth

    evaluation, scores = evaluate(
        tmp_path, [frame(i, found(w)) for i, w in enumerate(wrong, 1)], depth_rows([flat(10)] * 30)
    )
    assert evaluation.frames['abs_rel'] == pytest.approx(wrong / 8, rel=1e-4)
    assert [j.example.stamp_ns for j in scores] == [i * PERIOD for i in range(1, 31)]
    worst, examples = evaluation.examples[:WORST], evaluation.examples[WORST:]
    order = np.argsort(-wrong)[:WORST]
    assert [p.stamp_ns for p in worst] == ((order + 1) * PERIOD).tolist()
    assert [p.rank for p in worst] == list(range(1, WORST + 1))
    assert worst[0].abs_rel == pytest.approx(0.9 / 8)
    # Evenly spread are frames 5, 11, 17 and 23; the second is the worst of all.
    assert [p.stamp_ns for p in examples] == [6 * PERIOD, 18 * PERIOD, 24 * PERIOD]
    assert [p.rank for p in examples] == [0] * 3


def test_examples_have_truth_where_it_is_rare(tmp_path):
    rows = depth_rows([flat(5)] * 60)[2::3]
    evaluation, _ = evaluate(tmp_path, [frame(i, flat(5)) for i in range(1, 61)], rows)
    # Without errors the first ten are the worst, frames 3, 6, ..., 30 of 60. Of 60, the examples
    # are due at the 12th, 24th, 36th and 48th, which have truth themselves.
    assert [p.stamp_ns // PERIOD for p in evaluation.examples] == [*range(3, 31, 3), 36, 48]
    evaluation, _ = evaluate(tmp_path / '2', [frame(i, flat(5)) for i in range(1, 41)], rows[:13])
    # Of 40 they are due at the 8th, 16th, 24th and 32nd: the next with truth are 9, 18, 24, 33.
    assert [p.stamp_ns // PERIOD for p in evaluation.examples] == [*range(3, 31, 3), 33]


def test_frames_come_out_in_the_order_they_went_in(tmp_path):
    # The first of each four takes long.
    frames = [
        frame(i, flat(5, 300, 400) if i % 4 == 1 else flat(5), numbers={'age_ms': float(i)})
        for i in range(1, 17)
    ]
    rows = [('/gt/depth', image(f.depth, '32FC1', f.stamp)) for f in frames]
    evaluation, scores = evaluate(tmp_path, frames, rows)
    assert evaluation.frames['age_ms'].tolist() == list(range(1, 17))
    assert [j.numbers['stamp'] for j in scores] == pytest.approx(np.arange(1, 17) / 10)


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
        evaluator = FrameEvaluator(truth, None, True, 500, pool)
        for i in range(1, 501):
            one = frame(i, flat(5), step=shifted(x=0.1))
            one.rgb = one.rgb.view(_Image)
            alive.add(one.rgb)
            evaluator.add(one)
            most = max(most, len(alive))
        evaluation, _ = evaluator.finish()
    # Frames in flight are compared with the ones before them.
    assert WORST + EXAMPLES <= most <= WORST + EXAMPLES + 2 * (IN_FLIGHT + 1)
    assert len(evaluation.frames['stamp']) == 500


# Baselines and the scale


def test_something_trivial_is_beside_the_errors_of_depth(tmp_path):
    near, far = flat(5), flat(5)
    far[:, 4:] = 20
    frames = [frame(1, near), frame(2, near)]
    evaluation, _ = evaluate(tmp_path, frames, depth_rows([near, far]))
    found = evaluation.numbers['depth']
    # A constant becomes each frame's median, 5 and 12.5: off by 150 % and 37.5 % there.
    assert found['baselines']['constant']['abs_rel'] == pytest.approx((1.5 + 0.375) / 2 / 2)
    best = found['baselines']['constant_in_metres']
    assert best['depth'] == pytest.approx(5, rel=0.05)
    assert best['abs_rel'] == pytest.approx(0.75 / 4, rel=0.2)
    assert set(found['baselines']) == {'constant', 'flat_ground', 'constant_in_metres'}


def scaled(i, depth, used, height):
    numbers = {'scale_used': used, 'scale_used_sigma': 0.05, 'scale_height': height}
    return frame(i, depth, numbers={**numbers, 'scale_height_sigma': 0.1 * height})


def test_errors_of_the_scale_by_source(tmp_path):
    # Depth was multiplied by 2 and should have been by 2.5.
    frames = [scaled(i, flat(4), 2.0, 2.6) for i in range(1, 11)]
    evaluation, _ = evaluate(tmp_path, frames, depth_rows([flat(5)] * 10))
    assert evaluation.numbers['scale']['truth'] == 'depth'
    sources = evaluation.numbers['scale']['sources']
    assert sources['used']['error_percent'] == pytest.approx(-20)
    assert sources['used']['within_7_percent'] == 0
    assert sources['height']['error_percent'] == pytest.approx(4)
    assert sources['height']['nees'] == pytest.approx(0.4**2)
    assert evaluation.frames['scale_height_error'] == pytest.approx(0.04)


def test_true_poses_tell_the_scale_where_there_is_no_true_depth(tmp_path):
    frames = [scaled(i, flat(4), 2.0, 2.6) for i in range(1, 11)]
    for i, one in enumerate(frames[1:], 1):
        one.moved = Moved(i * PERIOD / 1e9, (i + 1) * PERIOD / 1e9, 0.4, 0.0)
    evaluation, _ = evaluate(tmp_path, frames, pose_rows([(i, 0, 0) for i in range(10)]))
    assert evaluation.numbers['scale']['truth'] == 'poses'
    # A metre is 0.4 units.
    assert evaluation.numbers['scale']['sources']['height']['error_percent'] == pytest.approx(4)


def test_metres_are_not_judged_before_they_are_known(tmp_path):
    frames = [frame(i, flat(4)) for i in range(1, 5)]
    frames[0].metric = frames[1].metric = False
    evaluation, scores = evaluate(tmp_path, frames, depth_rows([flat(5)] * 4))
    assert ['abs_rel_published' in s.numbers for s in scores] == [False, False, True, True]


# Trajectories


CORNERS = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1)]


def test_trajectory_is_that_of_the_metrics(tmp_path):
    found = [shifted(*c) for c in CORNERS]
    found[3] = pose(rotation_from_vector([0, 0, 0.3]), [0.2, 1.1, 0])
    frames = [frame(i, pose=p) for i, p in enumerate(found, 1)]
    frames.append(frame(6))  # its motion is not known
    frames.append(frame(7, pose=shifted(9)))  # its truth is not known
    evaluation, _ = evaluate(tmp_path, frames, pose_rows(2 * np.array(CORNERS)))
    truth = np.array([shifted(*c) for c in 2 * np.array(CORNERS)])
    expected = trajectory_table(np.array(found), truth)
    numbers = dict(evaluation.numbers['trajectory'])
    assert numbers.pop('poses') == expected.pop('frames') == 5
    trivial = numbers.pop('baselines')
    assert trivial == trajectory_baselines(truth, np.arange(1, 6) * PERIOD / 1e9)
    assert set(trivial) == {'standing_still', 'constant_velocity'}
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
    evaluation, _ = evaluate(tmp_path, frames, pose_rows(2 * np.array(CORNERS)))
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
    evaluation, _ = evaluate(tmp_path, frames, pose_rows(CORNERS))
    assert evaluation.numbers['trajectory'] is None and evaluation.aligned.shape == (0, 3)
    (note,) = evaluation.notes
    assert note.startswith('the trajectory cannot be judged: ') and problem in note
    assert len(evaluation.truth) == 5 and len(evaluation.estimate) == len(found)


# Loops and steps


def test_a_frame_known_to_be_wrong_ranks_before_one_that_seems_so(tmp_path):
    frames = list(wall_frames(4))
    frames[2].step = shifted(x=-1.0)
    rows = [('/gt/depth', image(flat(WALL_DISTANCE, 48, 64), '32FC1', i * PERIOD)) for i in (1, 4)]
    frames[3].depth[:, :10] *= 1.01
    evaluation, _ = evaluate(tmp_path, frames, rows)
    assert evaluation.frames['photometric'][2] > 0.1 > evaluation.frames['abs_rel'][3] > 0
    assert [p.stamp_ns // PERIOD for p in evaluation.examples] == [4, 1, 3, 2]
    assert [p.rank for p in evaluation.examples] == [1, 2, 3, 4]


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
    numbers = evaluate(tmp_path, frames)[0].numbers['consistency']
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
    evaluation, scores = evaluate(tmp_path, [], depth_rows([flat(5)]) + pose_rows(CORNERS), CLASSES)
    assert scores == evaluation.examples == evaluation.notes == [] and evaluation.frames == {}
    assert evaluation.numbers == {
        'depth': None,
        'semantics': None,
        'trajectory': None,
        'consistency': None,
        'scale': None,
        'odometry': {'poses': 0, 'length': 0},
    }


def test_odometry_only(tmp_path):
    frames = [frame(i, pose=shifted(*c)) for i, c in enumerate(CORNERS, 1)]
    evaluation, _ = evaluate(tmp_path, frames)
    assert evaluation.numbers['odometry'] == {'poses': 5, 'length': pytest.approx(4)}
    assert {k: v for k, v in evaluation.numbers.items() if v} == {
        'odometry': evaluation.numbers['odometry']
    }
    np.testing.assert_array_equal(evaluation.estimate, CORNERS)
    assert list(evaluation.frames) == ['stamp'] and evaluation.truth.shape == (0, 3)
    # Examples of five frames, none of which is known to be worse than another.
    assert [p.stamp_ns // PERIOD for p in evaluation.examples] == [1, 2, 3, 4]
    assert evaluation.examples[0].depth is None


def test_problems_of_the_truth_are_notes(tmp_path):
    rows = depth_rows([flat(5)] * 3)
    for _, message in rows[1:]:
        message.encoding = 'mono16'
    evaluation, _ = evaluate(tmp_path, [frame(i, flat(5)) for i in (1, 2, 3)], rows)
    (note,) = evaluation.notes
    assert note.startswith('true depth: depth encoding') and note.endswith('(2 times)')
    assert evaluation.numbers['depth']['frames'] == 1
