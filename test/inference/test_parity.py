"""Parity of two engines: known differences give known numbers, and the right verdict."""

from dataclasses import replace

import numpy as np
import pytest
from support import onnx_models

from depth_ros.core.se3 import rotation_from_vector, vector_from_rotation
from depth_ros.inference.contract import read_contract
from depth_ros.inference.engine import EngineError
from depth_ros.inference.outputs import OUTPUTS
from depth_ros.inference.parity import Parity, ParityMeter, accuracy_problems, check_contracts
from depth_ros.inference.parity_measures import (
    MEASURES,
    Bounds,
    DepthParity,
    LabelParity,
    MotionParity,
    NumberMeasure,
)

HEIGHT, WIDTH = onnx_models.HEIGHT, onnx_models.WIDTH


@pytest.fixture(scope='module')
def perception(tmp_path_factory):
    return read_contract(
        onnx_models.save_perception(tmp_path_factory.mktemp('model') / 'perception.onnx')
    )


@pytest.fixture(scope='module')
def pose(tmp_path_factory):
    return read_contract(onnx_models.save_pose(tmp_path_factory.mktemp('model') / 'pose.onnx'))


def outputs(depth=2.0, labels=1):
    return {
        'depth': np.full((HEIGHT, WIDTH), depth, np.float32),
        'labels': np.full((HEIGHT, WIDTH), labels, np.uint8),
    }


def test_every_output_can_be_compared():
    assert {output.compared for output in OUTPUTS.values()} <= set(MEASURES)


def test_errors_of_other_numbers(perception):
    measure = NumberMeasure(perception)
    for scale in (1, 2):
        a = np.array([1.0, -3.0, np.nan, 0.0], np.float32) * scale
        b = np.array([1.5, -3.5, 0.0, np.inf], np.float32) * scale
        measure.add(a, b)
    found = measure.result()
    assert (found.mean, found.max, found.worst_relative) == pytest.approx((0.75, 1, 0.25))
    (check,) = found.checks('flow', Bounds())
    assert check.problem == 'mean relative error of flow up to 25 %, at most 5 % is allowed'
    with pytest.raises(EngineError, match='no number is finite in both engines'):
        measure.add(np.array([np.nan]), np.array([1.0]))


def test_equal_outputs_agree(perception, pose):
    meter = ParityMeter(perception)
    meter.add(outputs(), outputs())
    found = meter.result()
    assert found.outputs['depth'] == DepthParity(
        mean=0,
        median=pytest.approx(0, abs=1e-8),
        p95=pytest.approx(0, abs=1e-8),
        max=0,
        worst_mean=0,
        scale_jump=0,
        worst_invalid=0,
    )
    assert found.outputs['labels'] == LabelParity(
        share=1, worst_share=1, mean_iou=1, iou={'car': 1}
    )
    assert set(found.outputs) == {'depth', 'labels'} and found.frames == 1
    assert found.problems() == []
    still = {'pose': np.zeros(6, np.float32)}
    meter = ParityMeter(pose)
    meter.add(still, still)
    assert meter.result().outputs['pose'] == MotionParity(
        translation=0,
        worst_translation=0,
        relative=0,
        worst_relative=0,
        rotation=0,
        worst_rotation=0,
    )


def test_errors_of_depth(perception):
    """Against numpy, on errors over many orders of magnitude."""
    rng = np.random.default_rng(0)
    meter = ParityMeter(perception)
    errors, scales = [], []
    for _ in range(3):
        a, b = outputs(), outputs()
        a['depth'] = rng.uniform(1, 50, (HEIGHT, WIDTH)).astype(np.float32)
        ratio = 1 + 10.0 ** rng.uniform(-4, -1, (HEIGHT, WIDTH))
        b['depth'] = (a['depth'] * ratio).astype(np.float32)
        b['depth'][:4] = rng.choice([np.nan, np.inf, 0, -1], (4, WIDTH))
        a['depth'][:2] = np.nan
        errors.append(np.abs(b['depth'] / a['depth'].astype(float) - 1)[4:])
        scales.append(np.median(1 + errors[-1]))
        meter.add(a, b)
    found, every = meter.result().outputs['depth'], np.array(errors)
    assert found.mean == pytest.approx(every.mean())
    assert found.max == pytest.approx(every.max())
    assert found.worst_mean == pytest.approx(max(e.mean() for e in errors))
    assert found.median == pytest.approx(np.median(every), rel=0.01)
    assert found.p95 == pytest.approx(np.percentile(every, 95), rel=0.01)
    assert found.scale_jump == pytest.approx(max(scales) / min(scales) - 1)
    assert found.worst_invalid == pytest.approx(2 / HEIGHT)


def test_a_jump_of_scale_in_one_frame_is_refused(perception):
    meter = ParityMeter(perception)
    for scale in (0.97, 0.97, 1.03):
        meter.add(outputs(10), outputs(10 * scale))
    (problem,) = meter.result().problems(Bounds(depth_error=0.05))
    assert problem == ('change of scale from frame to frame up to 6.19 %, at most 5 % is allowed')


def test_parity_of_classes(perception):
    a, b = outputs(), outputs()
    a['labels'][: HEIGHT // 2] = 0
    a['labels'][0] = 255  # counts as a class of its own, but has no IoU
    b['labels'][: HEIGHT // 4] = 0
    b['labels'][-1] = 77  # no class
    meter = ParityMeter(perception)
    meter.add(a, b)
    meter.add(a, a)
    found = meter.result().outputs['labels']
    wrong = 1 + HEIGHT // 4 + 1  # rows
    assert found.worst_share == pytest.approx(1 - wrong / HEIGHT)
    assert found.share == pytest.approx(1 - wrong / HEIGHT / 2)
    road = (HEIGHT // 2 - 1 + HEIGHT // 4 - 1) / (HEIGHT - 2)
    car = (HEIGHT // 2 + HEIGHT // 2 - 1) / (HEIGHT + HEIGHT // 4)
    assert found.iou == {'road': pytest.approx(road), 'car': pytest.approx(car)}
    assert found.mean_iou == pytest.approx((road + car) / 2)


def test_errors_of_motion(pose):
    rng = np.random.default_rng(0)
    meter = ParityMeter(pose)
    for error, angle in ((0.01, 0.2), (0.03, 0.1)):
        turn, axis = rng.normal(size=(2, 3))
        axis *= np.radians(angle) / np.linalg.norm(axis)
        turned = vector_from_rotation(rotation_from_vector(turn) @ rotation_from_vector(axis))
        meter.add(
            {'pose': np.array([*turn, 0, 0, 2.0])}, {'pose': np.array([*turned, 0, error, 2.0])}
        )
    found = meter.result().outputs['pose']
    assert found.translation == pytest.approx(0.02)
    assert found.worst_translation == pytest.approx(0.03)
    assert (found.relative, found.worst_relative) == pytest.approx((0.01, 0.015))
    assert (found.rotation, found.worst_rotation) == pytest.approx((0.15, 0.2))


@pytest.mark.parametrize(
    ('output', 'value', 'problem'),
    [
        ('depth', np.nan, 'no pixel has a depth in both engines'),
        ('depth', 0, 'no pixel has a depth in both engines'),
        ('labels', 255, 'engine A gives no pixel a class'),
    ],
)
def test_nothing_to_compare(perception, output, value, problem):
    a = outputs()
    a[output][:] = value
    meter = ParityMeter(perception)
    with pytest.raises(EngineError, match=problem):
        meter.add(a, outputs())
        meter.result()
    with pytest.raises(EngineError, match='there is no image'):
        ParityMeter(perception).result()


def test_a_pose_that_is_no_number(pose):
    good, bad = np.zeros(6, np.float32), np.full(6, np.nan, np.float32)
    with pytest.raises(EngineError, match='engine B gives the pose .*nan'):
        ParityMeter(pose).add({'pose': good}, {'pose': bad})


DEPTH = DepthParity(
    mean=0.01, median=0.01, p95=0.02, max=0.1, worst_mean=0.02, scale_jump=0.01, worst_invalid=0.001
)
LABELS = LabelParity(share=0.99, worst_share=0.96, mean_iou=0.9, iou={})
POSE = MotionParity(
    translation=0.01,
    worst_translation=0.02,
    relative=0.01,
    worst_relative=0.02,
    rotation=0.01,
    worst_rotation=0.05,
)


@pytest.mark.parametrize(
    ('bound', 'allowed', 'refused', 'text'),
    [
        ('depth_error', 0.02, 0.019, 'mean relative error of depth up to 2 %'),
        ('invalid', 0.001, 0.0009, 'depth in one engine only up to 0.1 %'),
        ('label_agreement', 0.96, 0.97, 'pixels of another class up to 4 %'),
        ('translation_error', 0.02, 0.019, 'error of translation up to 2 %'),
        ('rotation_error', 0.05, 0.04, 'error of rotation up to 0.05 deg, at most 0.04 deg'),
    ],
)
def test_each_bound_is_kept(bound, allowed, refused, text):
    found = Parity(frames=2, outputs={'depth': DEPTH, 'labels': LABELS, 'pose': POSE})
    assert found.problems(replace(Bounds(), **{bound: allowed})) == []
    (problem,) = found.problems(replace(Bounds(), **{bound: refused}))
    assert text in problem


def accuracy(abs_rel=0.1, mean_iou=0.5):
    return {
        'depth': {'rows': {'median_scaled': {'abs_rel': abs_rel}}},
        'semantics': {'mean_iou': mean_iou},
    }


def test_accuracy_may_change_by_less_than_one_percent_and_one_point():
    for near in (accuracy(0.1009), accuracy(0.0991), accuracy(mean_iou=0.491)):
        assert accuracy_problems(accuracy(), near) == []
    for far, name in (
        (accuracy(0.102), 'Abs Rel'),
        (accuracy(0.098), 'Abs Rel'),
        (accuracy(np.nan), 'Abs Rel'),
        (accuracy(mean_iou=0.489), 'mean IoU'),
    ):
        (problem,) = accuracy_problems(accuracy(), far)
        assert name in problem
    nothing = {'depth': None, 'semantics': None}
    assert accuracy_problems(nothing, nothing) == []


def test_contracts_of_one_model(perception, pose):
    check_contracts(
        perception,
        replace(perception, name='other', provenance={'int8': True}, image_size=(640, 480)),
    )
    for other, what in (
        (pose, 'task'),
        (replace(perception, metric=False), 'metric'),
        (replace(perception, input_width=128), 'input_width'),
        (replace(perception, outputs=('depth',), classes=()), 'outputs'),
        (replace(perception, classes=perception.classes[:2]), 'classes'),
    ):
        with pytest.raises(EngineError, match=f"not engines of one model: '{what}'"):
            check_contracts(perception, other)
