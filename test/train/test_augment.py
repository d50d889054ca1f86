"""Random changes of view and of look."""

import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional

from depth_ros.core.camera import scale_intrinsics
from train.data import augment
from train.data.augment import Augmentation

# Augmentation


WIDTH, HEIGHT = 64, 32
MATRIX = np.array([[40.0, 0, 30], [0, 44, 17], [0, 0, 1]])


def ramps(count=3):
    """Pictures whose red is 3 times the column and green 3 times the row; and both as maps."""
    v, u = np.mgrid[:HEIGHT, :WIDTH].astype(np.uint8)
    return [np.dstack([3 * u, 3 * v, u])] * count, [u, v.astype(np.uint16)]


def generator(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize('seed', range(6))
def test_pixels_keep_their_rays(seed):
    """What a pixel shows lies in the same direction as before, to half a pixel for the maps."""
    images, maps, matrix = Augmentation(scale=1.4).view(*ramps(), MATRIX, generator(seed))
    assert [a.shape for a in (*images, *maps)] == [(HEIGHT, WIDTH, 3)] * 3 + [(HEIGHT, WIDTH)] * 2
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    rays_u, rays_v = (u - matrix[0, 2]) / matrix[0, 0], (v - matrix[1, 2]) / matrix[1, 1]
    mirrored = images[0][0, 0, 0] > images[0][0, -1, 0]
    if mirrored:
        rays_u = -rays_u
    wanted = rays_u * 40 + 30, rays_v * 44 + 17
    inside = (np.abs(wanted[0] - WIDTH / 2) < WIDTH / 2 - 1) & (
        np.abs(wanted[1] - HEIGHT / 2) < HEIGHT / 2 - 1
    )
    assert inside.mean() > 0.8
    for axis in (0, 1):
        assert np.abs(images[0][..., axis] / 3 - wanted[axis])[inside].max() < 0.34  # rounded
        assert np.abs(maps[axis] - wanted[axis])[inside].max() < 0.51
    assert all(np.array_equal(images[0], image) for image in images[1:])


def test_mirror_image_by_hand():
    images, maps, matrix = Augmentation(flip=1).view(*ramps(), MATRIX, generator(0))
    assert matrix[0, 2] == WIDTH - 1 - 30 and matrix[0, 0] == 40
    assert np.array_equal(images[0], ramps()[0][0][:, ::-1])
    assert np.array_equal(maps[0], ramps()[1][0][:, ::-1])


def test_scale_and_crop_cover_their_range():
    scales, offsets = [], []
    for seed in range(200):
        matrix = Augmentation(flip=0, scale=1.5).view(*ramps(), MATRIX, generator(seed))[2]
        scale = matrix[0, 0] / 40
        scales.append(scale)
        offsets.append(((30.5 * scale - 0.5) - matrix[0, 2]) / max(1, WIDTH * (scale - 1)))
    assert min(scales) == 1 and 1.45 < max(scales) <= 1.5
    assert min(offsets) == 0 and 0.95 < max(offsets) <= 1


def test_enlarged_intrinsics_by_hand():
    """Twice as wide: the centre of pixel u goes to 2 u + 0.5."""
    assert scale_intrinsics(MATRIX, 2, 1).tolist() == [[80, 0, 60.5], [0, 44, 17], [0, 0, 1]]


def picture(seed=0):
    small = np.random.default_rng(seed).integers(40, 200, (4, 8, 3), np.uint8)
    return cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize(
    ('name', 'factor'),
    [
        ('brightness', 0.8),
        ('brightness', 1.2),
        ('contrast', 0.8),
        ('contrast', 1.2),
        ('saturation', 0.8),
        ('saturation', 1.2),
    ],
)
def test_colors_change_as_in_torchvision(name, factor):
    image = picture()
    values = {'brightness': 1.0, 'contrast': 1.0, 'saturation': 1.0, 'hue': 0.0, name: factor}
    (found,) = augment.change_colors([image], **values)
    change = getattr(functional, f'adjust_{name}')
    wanted = change(torch.from_numpy(image).permute(2, 0, 1), factor).permute(1, 2, 0).numpy()
    assert np.abs(found.astype(int) - wanted).max() <= 1


def test_hue_turns_colors_and_leaves_grey_and_brightness():
    grey = np.full((2, 2, 3), 90, np.uint8)
    assert np.abs(augment.change_colors([grey], 1, 1, 1, 0.1)[0].astype(int) - 90).max() <= 1
    red = np.full((2, 2, 3), (150, 60, 60), np.uint8)
    turned = augment.change_colors([red], 1, 1, 1, 1 / 3)[0][0, 0].astype(float)
    luma = np.array([0.299, 0.587, 0.114])
    assert turned @ luma == pytest.approx(red[0, 0] @ luma, abs=1)
    assert turned.argmax() != 0
    back = augment.change_colors([turned.astype(np.uint8)[None, None]], 1, 1, 1, -1 / 3)[0][0, 0]
    assert np.abs(back.astype(int) - red[0, 0]).max() <= 2


def test_all_frames_of_a_sample_change_alike():
    for change in (augment.jitter, augment.blur):
        a, b, c = change([picture()] * 3, generator(1))
        assert np.array_equal(a, b) and np.array_equal(b, c)
    for change in (augment.night, augment.rain):  # but for noise and drops
        a, b = change([picture()] * 2, generator(1))
        assert not np.array_equal(a, b)
        assert np.abs(a.astype(float).mean() - b.mean()) < 3


@pytest.mark.parametrize('seed', range(4))
def test_weather(seed):
    image = picture()
    black = np.zeros_like(image)
    assert augment.night([image], generator(seed))[0].mean() < 0.6 * image.mean()
    assert augment.night([black], generator(seed))[0].std() > 0.5  # noise
    (rainy,) = augment.rain([black], generator(seed))
    haze = np.median(rainy)
    assert 10 < haze < 90
    assert 0.002 < (rainy > haze + 20).mean() < 0.5  # streaks
    large = cv2.resize(image, (640, 192), interpolation=cv2.INTER_NEAREST)
    (blurred,) = augment.blur([large], generator(seed))
    assert abs(blurred.mean() - large.mean()) < 1
    steps = [np.abs(np.diff(a.astype(int), axis=1)).max() for a in (blurred, large)]
    lines = [np.abs(np.diff(a.astype(int), axis=0)).max() for a in (blurred, large)]
    assert steps[0] < 0.9 * steps[1] or lines[0] < 0.9 * lines[1]


@pytest.mark.parametrize('values', [{'flip': -0.1}, {'night': 1.5}, {'scale': 0.9}])
def test_bad_augmentation(values):
    with pytest.raises(ValueError, match=f'{next(iter(values))}.* must be'):
        Augmentation(**values)
