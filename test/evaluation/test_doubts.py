"""What an evaluation says in words, where its numbers alone would mislead."""

import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support.evaluated_frames import evaluate, wall_frames

from depth_ros.core.camera import Intrinsics
from depth_ros.evaluation.frame_evaluator import FrameEvaluator
from depth_ros.evaluation.frame_scores import FrameOutputs, FrameScorer
from depth_ros.inference.classes import ClassMap

CAMERA = Intrinsics(30.0, 30.0, 15.5, 11.5, 32, 24)


class Truth:
    """Ground truth of poses alone."""

    has_depth = False
    problems: dict = {}
    tolerance = 5 * 10**7

    def __init__(self, stamps):
        known = np.repeat(np.eye(4)[None], len(stamps), 0)
        known[:, 2, 3] = np.arange(len(stamps)) + 1.0
        self._stamps = stamps

        def at(wanted, tolerance):
            found = np.full((len(wanted), 4, 4), np.nan)
            for i, stamp in enumerate(wanted):
                if stamp in stamps:
                    found[i] = known[stamps.index(stamp)]
            return found

        self.track = type('Track', (), {'__len__': lambda _: len(stamps)})()
        self.track.poses, self.track.stamps, self.track.at = known, np.array(stamps), at

    def depth(self, *_):
        return None

    def labels(self, *_):
        return None


def run(truth, frames):
    with ThreadPoolExecutor(1) as pool:
        evaluator = FrameEvaluator(truth, None, True, len(frames), pool)
        for frame in frames:
            evaluator.add(frame)
        return evaluator.finish()[0]


def drive(count, step, image, loop=None):
    """Frames of a camera that says it drives; `image(i)` is what it sees."""
    motion = np.eye(4)
    motion[2, 3] = step
    for i in range(count):
        pose = np.linalg.matrix_power(motion, i)
        grey = image(i)
        yield FrameOutputs(
            10**8 * i,
            CAMERA,
            'camera',
            np.repeat(grey[..., None], 3, 2),
            CAMERA,
            depth=np.full((24, 32), 5.0, np.float32),
            pose=pose,
            step=motion if i else None,
            loop=loop if i else None,
        )


def noise(seed):
    """A textured picture, with a grain that differs from frame to frame."""
    texture = np.random.default_rng(0).integers(20, 230, (24, 32))
    grain = np.random.default_rng(seed).integers(0, 2, (24, 32))
    return (texture + grain).astype(np.uint8)


def test_a_still_camera_that_drives(tmp_path):
    """One picture again and again, with a grain: no division by that grain."""
    found = run(Truth([]), list(drive(8, 0.5, noise)))
    seen = found.numbers['consistency']
    assert seen['still_frames'] == 7 and 'explained_percent' not in seen
    (note,) = (n for n in found.notes if 'hardly differ' in n)
    assert note == (
        '7 of 7 images hardly differ from the one before, yet the odometry moves 0.5 a step there: '
        'its motion does not depend on the images'
    )


def test_loops_of_a_constant_are_called_so():
    step = np.eye(4)
    step[2, 3] = 0.5
    found = run(Truth([]), list(drive(4, 0.5, noise, (step, step, step))))
    assert found.numbers['consistency']['loop_translation_percent'] >= 40
    assert any('motion hardly depends on the images: loops' in n for n in found.notes)


def test_a_good_drive_raises_no_doubt(tmp_path):
    found, _ = evaluate(tmp_path, list(wall_frames(6)))
    assert found.numbers['consistency']['still_frames'] == 0
    assert not [n for n in found.notes if 'depend' in n or 'hardly' in n]


def test_few_true_poses_and_none():
    frames = list(drive(24, 0.5, noise))
    found = run(Truth([0, 10**8]), frames)
    assert found.numbers['trajectory']['poses'] == 2
    assert any('known at 2 of 24 poses only' in n for n in found.notes)
    found = run(Truth([3600 * 10**9, 3601 * 10**9]), frames)
    assert found.numbers['trajectory'] is None
    (note,) = (n for n in found.notes if 'no true pose within 0.05 s' in n)
    assert 'from 3600.000 to 3601.000 s' in note and 'from 0.000 to 2.300 s' in note


@pytest.mark.parametrize('true_labels', [False, True])
def test_classes_by_the_models_own_masks_are_called_predicted(true_labels):
    classes = ClassMap(
        tuple(types.SimpleNamespace(id=i, name=n) for i, n in enumerate(('road', 'sky'))),
        np.array([0, 1] + [255] * 254, np.uint8),
    )
    (frame,) = drive(1, 0.0, noise)
    frame.labels = np.zeros((24, 32), np.uint8)
    depth = np.full((24, 32), 5.0, np.float32)
    depth[:6] = 100.0
    labels = np.zeros((24, 32), np.uint8) if true_labels else None
    scores = FrameScorer(classes, True, False, (0.1, 80.0)).score(frame, None, depth, labels)
    name = 'class:road' if true_labels else 'class:road (predicted)'
    assert [n for n in scores.rows if n.startswith('class:')] == [name]
    assert scores.numbers['out_of_range'] == pytest.approx(0.25)
