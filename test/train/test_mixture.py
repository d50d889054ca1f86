"""Windows of images, samples with all that is known, mixtures of data sets."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from support.known_sets import (
    FRAMES,
    HEIGHT,
    MATRIX,
    WIDTH,
    make_sets,
    seeded,
    write_structure,
)

import train
from depth_ros.evaluation.structure import StructureError
from train.data import looks
from train.data.augment import Augmentation
from train.data.mixture import MixedDataset, read_mixture
from train.data.sequences import DataError
from train.data.window import Window
from train.data.windows import WindowDataset
from train.geometry import transform_from_pose

CONFIGS = Path(train.__file__).parent / 'configs'


@pytest.fixture(scope='module')
def sets(tmp_path_factory):
    """Data sets 'real' and 'synthetic', see :func:`make_sets`."""
    root = tmp_path_factory.mktemp('sets')
    make_sets(root)
    return root


# Windows


@pytest.mark.parametrize('seed', range(8))
def test_everything_in_a_window_fits_together(seed):
    """A point of the scene is where intrinsics, points, map and image say that it is."""
    rng = np.random.default_rng(seed)
    image = np.zeros((120, 300, 3), np.uint8)
    u, v = rng.integers(60, 240), rng.integers(40, 80)
    image[v - 3 : v + 4, u - 3 : u + 4] = 255
    window = Window.draw((300, 120), (160, 64), seeded(seed), least=0.6, flip=0.5, filters=1.0)
    seen = window.points(np.array([[u, v, 7.0]]))
    if not seen.any():
        return
    assert seen.sum() == 7
    row, column = np.argwhere(seen)[0]
    bright = np.argwhere(window.image(image)[..., 0] > 100).mean(0)
    assert np.abs(bright - [row, column]).max() < 2
    mapped = np.argwhere(window.map(image[..., 0]) > 0).mean(0)
    assert np.abs(mapped - [row, column]).max() < 1.5
    matrix = np.array([[200.0, 0, 150], [0, 200, 60], [0, 0, 1]])
    point = np.linalg.inv(matrix) @ [u, v, 1] * 7
    point[0] *= -1 if window.mirror else 1
    x, y, z = window.intrinsics(matrix) @ point
    assert abs(x / z - column) < 1 and abs(y / z - row) < 1


def test_the_whole_image_is_resized_as_the_nodes_do(sets):
    image = cv2.imread(str(sets / 'real/images/0.png'))
    whole = Window.whole((WIDTH, HEIGHT), (WIDTH, HEIGHT))
    np.testing.assert_array_equal(whole.image(image), image)
    np.testing.assert_allclose(whole.intrinsics(MATRIX), MATRIX)


def test_a_mirrored_motion_goes_the_other_way():
    window = replace(Window.whole((WIDTH, HEIGHT), (WIDTH, HEIGHT)), mirror=True)
    motion = transform_from_pose(torch.tensor([[0, 0.1, 0, 1.0, 2.0, 3.0]]).double())[0].numpy()
    mirrored = window.motion(motion)
    np.testing.assert_allclose(mirrored[:3, 3], [-1, 2, 3])
    np.testing.assert_allclose(mirrored[:3, :3], motion[:3, :3].T, atol=1e-12)


@pytest.mark.parametrize('look', [looks.grey, looks.sharpen, looks.degrade, looks.fog])
def test_looks_change_the_image_and_not_its_shape(look):
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (8, 12, 3), np.uint8), (96, 64))
    before = image.copy()
    a, b = look([image, image], seeded())
    assert a.dtype == np.uint8 and a.shape == image.shape and (a != image).any()
    np.testing.assert_array_equal(image, before)
    again = look([image, image], seeded())
    np.testing.assert_array_equal(a, again[0])
    np.testing.assert_array_equal(b, again[1])


# Samples


def test_a_sample_has_points_and_motion(sets):
    data = WindowDataset(sets / 'real', WIDTH, HEIGHT)
    item = data[1]
    assert (item['points'] > 0).sum() == 345 and not item['relative'] and item['watched']
    np.testing.assert_allclose(item['motion'][0, :3, 3], [0.4, 0, 0], atol=1e-6)
    judge = WindowDataset(sets / 'real', WIDTH, HEIGHT, judge=True)[1]
    assert (judge['points'] > 0).sum() == 39
    assert not ((judge['points'] > 0) & (item['points'] > 0)).any()
    true = WindowDataset(sets / 'synthetic', WIDTH, HEIGHT)[1]
    assert (true['depth'] == 10).all() and not true['points'].any()
    np.testing.assert_allclose(true['motion'], item['motion'])


def test_still_backward_and_unused(sets):
    still = WindowDataset(sets / 'real', WIDTH, HEIGHT, still=1.0, augment=Augmentation())[(1, 3)]
    np.testing.assert_array_equal(still['images'][0], still['images'][1])
    assert (still['motion'][0] == torch.eye(4)).all() and not still['watched']
    augment = Augmentation(flip=0, jitter=0)
    back = WindowDataset(sets / 'real', WIDTH, HEIGHT, backward=1.0, augment=augment)[(1, 3)]
    np.testing.assert_allclose(back['motion'][0, :3, 3], [-0.4, 0, 0], atol=1e-6)
    bare = WindowDataset(sets / 'synthetic', WIDTH, HEIGHT, use=['semantics'])[1]
    assert not bare['depth'].any() and bare['motion'].isnan().all() and not bare['watched']
    assert (bare['labels'] == 10).any()


def test_pictures_that_are_no_video(sets):
    data = WindowDataset(sets / 'real', WIDTH, HEIGHT, singles=True, span=(0, 0.5))
    assert len(data) == 3
    assert (data[0]['motion'][0] == torch.eye(4)).all()


def test_a_sample_depends_on_its_key_only(sets):
    data = WindowDataset(
        *(sets / 'real', WIDTH, HEIGHT),
        augment=Augmentation(grey=0.5, degrade=0.5, fog=0.5),
        crop=0.5,
        filters=1.0,
        still=0.3,
    )
    for a, b in zip(data[(2, 7)].values(), data[(2, 7)].values(), strict=True):
        assert torch.equal(a.nan_to_num(), b.nan_to_num())


def test_a_relative_reconstruction_has_no_motion_in_metres(sets, tmp_path):
    folder = tmp_path / 'relative'
    folder.mkdir()
    for name in ('images', 'intrinsics.txt'):
        (folder / name).symlink_to(sets / 'real' / name)
    points = np.array([[5, 5, 1.0]])
    write_structure(folder, np.tile(np.eye(4), (FRAMES, 1, 1)), points, np.zeros(1, bool), False)
    item = WindowDataset(folder, WIDTH, HEIGHT)[1]
    assert item['relative'] and item['motion'].isnan().all() and item['points'].sum() == 1


def test_a_damaged_structure_is_named(sets, tmp_path):
    (tmp_path / 'images').symlink_to(sets / 'real/images')
    (tmp_path / 'intrinsics.txt').symlink_to(sets / 'real/intrinsics.txt')
    (tmp_path / 'structure.npz').write_bytes(b'PK\3\4')
    with pytest.raises(StructureError, match=r'structure.npz.*make it again'):
        WindowDataset(tmp_path, WIDTH, HEIGHT)
    points = np.array([[5, 5, 1.0]])
    write_structure(tmp_path, np.tile(np.eye(4), (3, 1, 1)), points, np.zeros(1, bool))
    with pytest.raises(StructureError, match='is of 3 images, there are 6'):
        WindowDataset(tmp_path, WIDTH, HEIGHT)


# Mixtures


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('sets: [{weight: 1}]', "with 'data' among them"),
        ('sets: [{data: x, wieght: 1}]', "'wieght' is unknown"),
        ('sets: [{data: x, weight: 0}]', 'must be positive'),
        ('sets: [{data: x, use: [dept]}]', "'use' must be some of"),
        ('sets: [{data: x, span: [1, 0]}]', 'two shares'),
        ('sets: [{data: x, singles: 1}]', "'singles' is 1, must be bool"),
        ('sets: []', 'is no mixture'),
        ('- a', 'is no mixture'),
    ],
)
def test_a_wrong_mixture_is_explained(tmp_path, text, message):
    path = tmp_path / 'sets.yaml'
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_mixture(path)


def test_a_mixture_draws_by_weight(sets):
    parts = [WindowDataset(sets / name, WIDTH, HEIGHT) for name in ('real', 'synthetic')]
    data = MixedDataset(parts, [3.0, 1.0])
    assert len(data) == 2 * (FRAMES - 1) and data.has('depth') and data.has('semantics')
    real = [bool(data[(0, seed)]['points'].any()) for seed in range(400)]
    assert 0.68 < np.mean(real) < 0.82
    assert [bool(data[i]['points'].any()) for i in range(len(data))] == [True] * 5 + [False] * 5


def test_all_committed_mixtures_can_be_read():
    found = sorted(CONFIGS.glob('*_sets.yaml'))
    assert found
    for path in found:
        assert read_mixture(path)
