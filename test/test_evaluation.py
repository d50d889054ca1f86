"""Judging recorded outputs: frames are paired by stamp, sizes and class ids are matched, and what
cannot be judged is said."""

import numpy as np
import pytest
from test_bag import RGB, camera_info, image, odometry

from depth_ros.bag import Bag, BagWriter, find_streams
from depth_ros.contract import SemanticClass
from depth_ros.evaluation import Outputs, evaluate

CLASSES = (SemanticClass(0, 'car', (0, 0, 142)), SemanticClass(1, 'road', (128, 64, 128)))
OUTPUTS = Outputs('/depth/image_rect', '/semantics/labels', '/odom')
PERIOD = 10**8


def pose(stamp: int, x: float, y: float):
    message = odometry(stamp)
    message.pose.pose.position.x, message.pose.pose.position.y = x, y
    return message


def write(path, rows):
    with BagWriter(path) as writer:
        for topic, stamp, message in rows:
            writer.write(topic, message.__msgtype__, stamp, message)
    return path


def judge(tmp_path, truth, outputs, metric=True, frames=4):
    cameras = [row for i in range(1, frames + 1) for row in (
        ('/cam/image', i * PERIOD, image(RGB, 'rgb8', i * PERIOD)),
        ('/cam/camera_info', i * PERIOD, camera_info(i * PERIOD)))]
    source = write(tmp_path / 'source', cameras + truth)
    recording = write(tmp_path / 'recording', outputs)
    with Bag(source) as bag:
        streams = find_streams(bag)
    return evaluate(source, streams, recording, OUTPUTS, CLASSES, metric, pictures=3)


def depths(topic, values, late=0, shape=(6, 8)):
    return [(topic, i * PERIOD, image(np.full(shape, v, np.float32), '32FC1', i * PERIOD + late))
            for i, v in enumerate(values, 1)]


def test_frames_are_paired_by_the_nearest_stamp(tmp_path):
    # True depth comes 30 ms after the image; the second one is missing.
    truth = depths('/gt/depth', (1, 2, 3, 4), late=3 * 10**7)
    del truth[1]
    found = judge(tmp_path, truth, depths('/depth/image_rect', (2, 4, 6, 8)))
    assert found.depth_frames == 3
    assert found.depth.abs_rel == pytest.approx(1)
    assert found.depth_scaled.abs_rel == pytest.approx(0)
    assert [p.stamp_ns for p in found.pictures] == [PERIOD, 3 * PERIOD, 4 * PERIOD]  # those judged
    assert found.pictures[0].true_depth[0, 0] == 1 and found.pictures[1].true_depth[0, 0] == 3


def test_depth_of_another_size(tmp_path):
    found = judge(tmp_path, depths('/gt/depth', (5, 5, 5, 5), shape=(12, 16)),
                  depths('/depth/image_rect', (5, 5, 5, 5)))
    assert found.depth == pytest.approx((0, 0, 0, 0, 1, 1, 1))


def test_relative_depth_is_judged_scaled_only(tmp_path):
    found = judge(tmp_path, depths('/gt/depth', (5,) * 4), depths('/depth/image_rect', (1,) * 4),
                  metric=False)
    assert found.depth is None and found.depth_scaled.abs_rel == pytest.approx(0)
    assert any('not metric' in note for note in found.notes)


def test_true_ids_become_the_models(tmp_path):
    # Cityscapes: 0 road, 13 car, 10 sky; the model has 0 car, 1 road and no sky.
    truth = np.array([[0, 0, 13, 13, 10, 255]], np.uint8).repeat(6, axis=0)
    ours = np.array([[1, 0, 0, 255, 1, 1]], np.uint8).repeat(6, axis=0)
    found = judge(tmp_path, [('/gt/labels', PERIOD, image(truth, 'mono8', PERIOD))],
                  depths('/depth/image_rect', (1,)) + [
                      ('/semantics/labels', PERIOD, image(ours, 'mono8', PERIOD))])
    assert found.confusion.tolist() == [[6, 0, 6], [6, 6, 0]]
    assert found.label_frames == 1


def test_trajectories_are_compared_where_both_have_a_pose(tmp_path):
    corner = [(0, 0), (1, 0), (1, 1), (0, 1)]
    truth = [('/gt/odom', i * PERIOD, pose(i * PERIOD, 2 * x, 2 * y))
             for i, (x, y) in enumerate(corner, 1)]
    ours = [('/odom', i * PERIOD, pose(i * PERIOD, x, y)) for i, (x, y) in enumerate(corner, 1)][1:]
    found = judge(tmp_path, truth, depths('/depth/image_rect', (1,)) + ours)
    assert found.trajectory.scale == pytest.approx(2)
    assert found.trajectory.ate_sim3 == pytest.approx(0, abs=1e-9)
    assert len(found.trajectory.aligned) == 3 and found.trajectory.length == pytest.approx(4)
    assert len(found.truth) == 4


def test_what_cannot_be_judged_is_said(tmp_path):
    empty = [('/gt/depth', PERIOD, image(np.zeros((6, 8), np.float32), '32FC1', PERIOD)),
             ('/gt/odom', PERIOD, pose(PERIOD, 0, 0))]
    found = judge(tmp_path, empty, depths('/depth/image_rect', (1,)) + [
        ('/odom', PERIOD, pose(PERIOD, 0, 0))])
    notes = '\n'.join(found.notes)
    assert '/gt/depth has no frame with valid pixels' in notes
    assert 'no ground truth of semantics' in notes
    assert '/odom has 1 poses' in notes and 'trajectory cannot be judged' in notes
    assert found.depth is None and found.trajectory is None


def test_a_recording_without_truth_is_one_note(tmp_path):
    found = judge(tmp_path, [], depths('/depth/image_rect', (1, 2)))
    assert found.notes == ['no ground truth in this recording']
    assert len(found.pictures) == 2 and found.pictures[1].depth[0, 0] == 2
    assert np.array_equal(found.pictures[0].rgb, RGB)
