"""Points of structure from motion as the true depth of a recording."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

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
