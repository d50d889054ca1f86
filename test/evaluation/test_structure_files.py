"""Points of structure from motion as the true depth of a recording."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from support import drive_recording, onnx_models

from depth_ros.commands import evaluate_bag
from depth_ros.core.camera import Intrinsics
from depth_ros.evaluation.structure import FILE, FramePoints, PointTruth, Structure, StructureError

WIDTH, HEIGHT, FRAMES = 40, 20, 3
START = 1_700_000_000  # seconds


def structure(**changes):
    """Two points a frame, of which the second is held out; frame 1 is of a part without metres."""
    found = Structure(
        part=np.array([0, 1, 0]),
        poses=np.tile(np.eye(4), (FRAMES, 1, 1)),
        metric_spread=np.array([0.02, np.nan]),
        starts=np.array([0, 2, 4, 6]),
        xy=np.array([[1, 2], [10, 5]] * FRAMES, float),
        depth=np.arange(1.0, 7.0),
        sigma=np.full(6, 0.02),
        error=np.full(6, 0.3),
        track=np.full(6, 4),
        angle=np.full(6, 2.0),
        point=np.array([0, 1] * FRAMES),
        held_out=np.array([False, True] * FRAMES),
        intrinsics=np.eye(3),
    )
    return replace(found, **changes)


@pytest.fixture
def folder(tmp_path):
    """A sequence folder, as it is prepared of a recording."""
    folder = tmp_path / 'drives' / 'monday'
    (folder / 'images').mkdir(parents=True)
    for index in range(FRAMES):
        image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        cv2.imwrite(str(folder / 'images' / f'{index}.png'), image)
    np.savetxt(folder / 'times.txt', START + 0.1 * np.arange(FRAMES), fmt='%.9f')
    structure().write(folder / FILE)
    return folder


def stamp(index):
    return START * 10**9 + index * 10**8


def test_points_are_where_the_recorded_image_shows_them(folder):
    truth = PointTruth(folder, 'any', 'held_out')
    depth = truth.depth(stamp(2), Intrinsics(1, 1, 0, 0, 2 * WIDTH, 2 * HEIGHT))
    # A pixel's middle: (10 + 0.5) * 2 - 0.5.
    assert np.argwhere(np.isfinite(depth)).tolist() == [[10, 20]]
    assert depth[10, 20] == 6


def test_all_points_where_no_training_has_seen_them(folder):
    truth = PointTruth(folder.parent, 'monday', 'all')
    depth = truth.depth(stamp(0), Intrinsics(1, 1, 0, 0, WIDTH, HEIGHT))
    assert np.argwhere(np.isfinite(depth)).tolist() == [[2, 1], [5, 10]]
    assert truth.frames == 2 and 'all of them' in truth.note


def test_no_truth_without_metres_or_at_another_time(folder):
    truth = PointTruth(folder, 'any', 'all')
    camera = Intrinsics(1, 1, 0, 0, WIDTH, HEIGHT)
    assert truth.depth(stamp(1), camera) is None
    assert truth.depth(stamp(0) + 30_000_000, camera) is None
    assert truth.depth(stamp(0) + 500_000, camera) is not None


def test_a_structure_without_metres_is_refused(folder):
    structure(metric_spread=np.array([np.nan, np.nan])).write(folder / FILE)
    with pytest.raises(StructureError, match='no points in metres'):
        PointTruth(folder, 'any', 'all')


def test_a_missing_structure_says_how_to_make_it(folder):
    with pytest.raises(StructureError, match='python -m train prepare and structure'):
        PointTruth(folder.parent, 'tuesday', 'all')


def test_times_that_do_not_fit_are_told(folder):
    (folder / 'times.txt').write_text('1\n2\n')
    with pytest.raises(StructureError, match='a row for each of 3 images'):
        PointTruth(folder, 'any', 'all')


@pytest.mark.parametrize(
    ('changes', 'problem'),
    [
        ({'depth': np.array([1, 2, 3, 4, 5, 0.0])}, 'not positive'),
        ({'starts': np.array([0, 2, 5, 4])}, 'starts do not fit'),
        ({'part': np.array([0, 2, 0])}, 'a part has no scale'),
        ({'xy': np.zeros((5, 2))}, 'xy is'),
        ({'poses': np.full((FRAMES, 4, 4), np.nan)}, 'no pose'),
    ],
)
def test_what_does_not_fit_together_is_told(tmp_path, changes, problem):
    structure(**changes).write(tmp_path / FILE)
    with pytest.raises(StructureError, match=problem):
        Structure.read(tmp_path / FILE)


def test_where_points_share_a_pixel_the_nearest_is_seen():
    points = FramePoints(
        np.array([[3.2, 4.1], [2.9, 3.8], [-5, 2]]), np.array([9.0, 4.0, 1.0]), *2 * [np.ones(3)], 1
    )
    depth = points.as_map((HEIGHT, WIDTH))
    assert depth[4, 3] == 4 and np.count_nonzero(depth) == 1


def test_motion_between_parts_is_unknown():
    poses = np.tile(np.eye(4), (FRAMES, 1, 1))
    poses[2, 2, 3] = 5  # forward
    found = structure(poses=poses)
    assert found.motion(0, 1) is None
    assert found.motion(0, 2)[2, 3] == -5, 'what was ahead comes nearer'


def test_evaluate_bag_judges_depth_by_points(tmp_path):
    """The network's depth is 1 / 1.1 of that of the points; those of training are nonsense."""
    bag = drive_recording.write(tmp_path / 'bag', truth=False)
    onnx_models.save_perception(tmp_path / 'perception.onnx')
    truth, count = drive_recording.truth_depth(), drive_recording.FRAMES
    folder = tmp_path / 'data' / 'bag'
    (folder / 'images').mkdir(parents=True)
    for index in range(count):
        cv2.imwrite(str(folder / 'images' / f'{index:03d}.png'), drive_recording.pixels())
    start = drive_recording.START_NS * 1e-9
    np.savetxt(folder / 'times.txt', start + 0.1 * np.arange(count), fmt='%.9f')
    y, x = (grid.ravel() for grid in np.mgrid[40:90:10, 5:120:8])
    held_out = np.tile(np.arange(len(x)) % 3 == 0, count)
    seen = len(held_out)
    Structure(
        part=np.zeros(count),
        poses=np.tile(np.eye(4), (count, 1, 1)),
        metric_spread=np.array([0.02]),
        starts=np.arange(count + 1) * len(x),
        xy=np.tile(np.stack([x, y], 1), (count, 1)),
        depth=np.tile(truth[y, x], count) * np.where(held_out, 1, 3),
        sigma=np.full(seen, 0.02),
        error=np.full(seen, 0.3),
        track=np.full(seen, 4),
        angle=np.full(seen, 2.0),
        point=np.arange(seen),
        held_out=held_out,
        intrinsics=np.eye(3),
    ).write(folder / FILE)
    out = tmp_path / 'out'
    options = ['--model', str(tmp_path / 'perception.onnx'), '--no-recording', '--out', str(out)]
    command = [str(bag), *options, '--structure', str(tmp_path / 'data')]
    assert evaluate_bag.main(command) == 0
    found = json.loads((out / 'metrics.json').read_text())
    assert found['depth']['rows']['as_published']['abs_rel'] == pytest.approx(1 - 1 / 1.1, abs=0.01)
    assert found['depth']['rows']['median_scaled']['abs_rel'] == pytest.approx(0, abs=0.01)
    assert 'points of structure from motion, a tenth of them' in ' '.join(found['notes'])
    assert evaluate_bag.main([*command[:-1], str(out)]) == 1
