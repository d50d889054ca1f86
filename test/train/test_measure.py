"""The table of held-out recordings."""

import cv2
import numpy as np
import pytest
from support.known_sets import make_sets

from depth_ros.core.camera import Intrinsics
from depth_ros.core.metrics.baselines import flat_ground_depth
from depth_ros.inference.classes import CITYSCAPES, ROAD
from train.commands import measure
from train.evaluation.corruption import CORRUPTIONS
from train.evaluation.predict import Perceived, Predictor


class Wall(Predictor):
    """Says 5 m everywhere, class 2, and a step of 1 cm at each frame."""

    perception_size = pose_size = (96, 64)
    camera = Intrinsics(25, 25, 47.5, 31.5, 96, 64)
    classes = CITYSCAPES

    def _perceive(self, image):
        return Perceived(np.full((64, 96), 5, np.float32), np.full((64, 96), 2, np.uint8))

    def _window(self, frames):
        step = np.eye(4)
        step[2, 3] = 0.01
        return np.stack([np.eye(4), step])


@pytest.fixture(scope='module')
def sets(tmp_path_factory):
    """Data sets 'real' and 'synthetic', see :func:`make_sets`."""
    root = tmp_path_factory.mktemp('sets')
    make_sets(root)
    return root


@pytest.mark.parametrize('name', ['real', 'synthetic'])
def test_depth_is_judged_at_the_cameras_focal_length(sets, name):
    """The wall is at 10 m: 5 m times the ratio of the focal lengths."""
    if name == 'real':
        views = list(measure._with_points(sets / name, 2))
    else:
        from train.data.sequences import read_sequence

        views = list(measure._with_depth(read_sequence(sets / name), [0, 2, 4]))
    row = measure.judge_depth(name, views, Wall())
    assert row.images == 3 and row.values['in metres: Abs Rel'] < 1e-3
    assert row.values['scale'] == pytest.approx(1) and row.trivial['delta1'] == 1
    assert row.trivial['in metres: delta1'] == 1 and row.ground['Abs Rel'] > 0.1
    assert 'in metres: Abs Rel' not in row.ground  # the camera's height is not known
    relative = measure.judge_depth(name, [v._replace(metric=False) for v in views], Wall())
    assert 'scale' not in relative.values and relative.values['Abs Rel'] < 1e-3


def test_the_scale_by_the_height_of_the_camera():
    """A road 1.65 m below the camera, which the model takes for one of 1.5 units."""

    class Road(Wall):
        def _perceive(self, image):
            ground = flat_ground_depth(self.camera, 1.5)
            labels = np.where(ground < 22, ROAD, 2).astype(np.uint8)
            return Perceived(ground, labels)

    camera = Intrinsics(50, 50, 95.5, 63.5, 192, 128)
    truth = flat_ground_depth(camera, 1.65)
    view = measure.View(np.zeros((128, 192, 3), np.uint8), truth, camera.matrix, True, 1.65)
    row = measure.judge_depth('road', [view] * 2, Road())
    assert row.values['scale by height, images'] == 2
    assert abs(row.values['scale by height, median error']) < 0.02
    assert row.values['scale'] == pytest.approx(1.1, rel=0.02)
    assert row.ground['in metres: Abs Rel'] == pytest.approx(0, abs=1e-6)
    assert '| road | 2 | in metres: Abs Rel | 0.0' in measure.table([row])


def test_labels_and_a_standing_camera(sets):
    from train.data.sequences import read_sequence

    pairs = measure._labelled([read_sequence(sets / 'synthetic')], 3)
    row = measure.judge_labels('labels', pairs, Wall(), None)
    assert row.values['mean IoU'] == pytest.approx(0.75 / 2)  # a quarter is sky
    rows = list(measure.judge_still(np.zeros((64, 96, 3), np.uint8), Wall()))
    assert rows[0].values['drift, m'] == pytest.approx(2.99)
    assert '| labels | 2 | mean IoU | 0.375 | 0.375 |  |' in measure.table([row])


@pytest.mark.parametrize('name', sorted(CORRUPTIONS))
def test_corruptions_spoil_but_do_not_destroy(name):
    image = np.zeros((64, 96, 3), np.uint8)
    image[:, 48:] = 200
    spoilt = CORRUPTIONS[name](image)
    assert spoilt.shape == image.shape and spoilt.dtype == np.uint8
    assert not np.array_equal(spoilt, image)
    assert np.array_equal(spoilt, CORRUPTIONS[name](image))  # the same for every model
    left, right = spoilt[:, :40].mean(), spoilt[:, 56:].mean()
    assert right - left > 30


def test_the_loss_by_corruption(tmp_path):
    """A model that says 5 m, and twice as much at the right where the image is dark."""

    class Afraid(Wall):
        def _perceive(self, image):
            depth = np.full((64, 96), 5, np.float32)
            if image.mean() < 60:
                depth[:, 48:] *= 2
            return Perceived(depth, np.full((64, 96), 2, np.uint8))

    frame = tmp_path / 'frame'
    frame.mkdir()
    cv2.imwrite(str(frame / 'image.png'), np.full((64, 96, 3), 120, np.uint8))
    rng = np.random.default_rng(0)
    truth = np.repeat([10.0, 11.0], 200)
    points = np.stack([truth, rng.uniform(-4, 4, 400), rng.uniform(-2, 2, 400), truth], 1)
    points.astype(np.float32).tofile(frame / 'velodyne.bin')
    rows = {
        'P2': [50, 0, 47.5, 0, 0, 50, 31.5, 0, 0, 0, 1, 0],
        'R0_rect': np.eye(3).ravel(),
        'Tr_velo_to_cam': [0, -1, 0, 0, 0, 0, -1, 0, 1, 0, 0, 0],
    }
    text = ''.join(f'{key}: {" ".join(map(str, row))}\n' for key, row in rows.items())
    (frame / 'calib.txt').write_text(text)
    clean = measure.judge_depth('clean', [measure.View(*measure.kitti_frame(frame))], Afraid())
    row = measure.judge_corrupted('spoilt', [frame / 'velodyne.bin'], clean, Afraid())
    assert row.values['jpeg: Abs Rel'] == pytest.approx(clean.values['Abs Rel'])
    assert row.values['dark: Abs Rel'] > 2 * clean.values['Abs Rel']
    loss = 100 * (row.values['dark: Abs Rel'] / clean.values['Abs Rel'] - 1) / len(CORRUPTIONS)
    assert row.values['mean relative loss, %'] == pytest.approx(loss)
