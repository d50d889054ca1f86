"""Whether pictures are rectified already: by what is said, their topic's name, and the pictures."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from depth_ros.core.camera import CameraError
from depth_ros.core.rectification import Rectification

WIDTH, HEIGHT = 640, 400
K = np.array([[420.0, 0, 322], [0, 420, 197], [0, 0, 1]])
BARREL, PINCUSHION = (-0.32, 0.12, 0, 0, 0), (0.25, 0.1, 0, 0, 0)
FISHEYE = (-0.02, 0.01, 0, 0)


def info(d, k=K, p=None, model='plumb_bob', size=(WIDTH, HEIGHT)):
    roi = SimpleNamespace(width=0, height=0, x_offset=0, y_offset=0)
    return SimpleNamespace(
        distortion_model=model,
        d=d,
        k=np.ravel(k),
        r=np.eye(3).ravel(),
        p=np.ravel(np.column_stack([k if p is None else p, np.zeros(3)])),
        width=size[0],
        height=size[1],
        roi=roi,
    )


def distorted_rays(x, y, d, model):
    """Where a lens puts the ray (x, y, 1)."""
    rays = np.stack([x, y], -1).reshape(-1, 1, 2)
    if model == 'equidistant':
        return cv2.fisheye.distortPoints(rays, np.eye(3), np.array(d)).reshape(-1, 2)
    points = np.concatenate([rays, np.ones((len(rays), 1, 1))], 2)
    found, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), np.eye(3), np.array(d))
    return found.reshape(-1, 2)


def pictures(camera, d=(0, 0, 0, 0, 0), model='plumb_bob', seed=1, count=4):
    """Posts, lines and boards at random, drawn where a lens puts them: what streets are made of."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        image = np.full((HEIGHT, WIDTH), 120, np.uint8)
        for _ in range(14):
            start, end = random.uniform([-1, -0.6], [1, 0.6], (2, 2))
            along = start + np.linspace(0, 1, 200)[:, None] * (end - start)
            bent = distorted_rays(along[:, 0], along[:, 1], d, model) @ camera[:2, :2].T
            points = np.round((bent + camera[:2, 2]) * 16).astype(np.int32)
            grey = int(random.integers(0, 80) + 175 * random.integers(0, 2))
            cv2.polylines(image, [points], False, grey, 7, cv2.LINE_AA, 4)
        noise = random.normal(0, 2, image.shape)
        found.append(np.clip(image + noise, 0, 255).astype(np.uint8))
    return found


@pytest.mark.parametrize(
    ('model', 'd'),
    [('plumb_bob', BARREL), ('plumb_bob', PINCUSHION), ('equidistant', FISHEYE)],
)
def test_lines_that_are_straight_already(model, d):
    lens = Rectification(info(d, model=model))
    straight = lens.verdict('/cam/image', pictures(K))
    assert straight.rectified and straight.why == 'by the lines in it'
    bent = lens.verdict('/cam/image', pictures(K, d, model))
    assert not bent.rectified and bent.why == 'by the lines in it'


def test_without_lines_distortion_decides():
    random = np.random.default_rng(3)
    blobs = [
        cv2.GaussianBlur(random.integers(0, 256, (HEIGHT, WIDTH), np.uint8), (0, 0), 9)
        for _ in range(4)
    ]
    found = Rectification(info(BARREL)).verdict('/cam/image', blobs)
    assert (found.rectified, found.why, found.doubt) == (False, 'by D', '')
    assert Rectification(info(BARREL)).verdict('/cam/image', []).why == 'by D'


def test_what_is_said_counts_most_then_the_name():
    lens, straight = Rectification(info(BARREL)), pictures(K)
    assert not lens.verdict('/cam/image_rect', straight, 'no').rectified
    assert lens.verdict('/cam/image', pictures(K, BARREL), 'yes') == (True, 'as told', '')
    for topic in ('/cam/image_rect', '/cam/image_rect_color', '/rectified/image', '/cam/rect/x'):
        assert lens.verdict(topic, pictures(K, BARREL)).why == "by its topic's name"
    assert lens.verdict('/direct/image', pictures(K, BARREL)).why == 'by the lines in it'
    none = Rectification(info((0, 0, 0, 0, 0))).verdict('/cam/image', straight, 'no')
    assert none == (True, 'no distortion', '')


def test_black_borders_of_a_rectified_picture():
    """With all of the lens's picture in it (alpha = 1), and no line to see."""
    lens_d = np.array((0.3, 0.1, 0, 0, 0))
    p, _ = cv2.getOptimalNewCameraMatrix(K, lens_d, (WIDTH, HEIGHT), 1)
    maps = cv2.initUndistortRectifyMap(K, lens_d, None, p, (WIDTH, HEIGHT), cv2.CV_32FC1)
    random = np.random.default_rng(4)
    raw = [
        cv2.GaussianBlur(random.integers(60, 256, (HEIGHT, WIDTH), np.uint8), (0, 0), 9)
        for _ in range(3)
    ]
    lens = Rectification(info(lens_d, p=p))
    assert not lens.verdict('/cam/image', raw).rectified
    found = lens.verdict('/cam/image', [cv2.remap(r, *maps, cv2.INTER_LINEAR) for r in raw])
    assert found.rectified and 'black where a rectified picture is' in found.why


def test_k_of_the_uncut_picture_and_p_of_the_rectified_one():
    """As kitti2bag writes it: KITTI's calibration, at a third of its size."""
    k = np.array([[320.0, 0, 232], [0, 320, 74], [0, 0, 1]])
    p = np.array([[240.5, 0, 203], [0, 240.5, 57.5], [0, 0, 1]])
    lens = Rectification(info((-0.37, 0.19, 0.0002, 0.001, -0.065), k, p, size=(414, 125)))
    random = np.random.default_rng(5)
    blobs = [
        cv2.GaussianBlur(random.integers(0, 256, (125, 414), np.uint8), (0, 0), 9) for _ in range(3)
    ]
    found = lens.verdict('/kitti/camera_color_left/image', blobs)
    assert found.rectified and "K's centre" in found.why and '31% are black' in found.doubt


def test_what_the_lens_does_not_see():
    p = K * [[0.7], [0.7], [1]] + [[0, 0, 96], [0, 0, 59], [0, 0, 0]]
    lens = Rectification(info(BARREL, p=p))
    labels = lens.rectify(np.zeros((HEIGHT, WIDTH), np.uint8), cv2.INTER_NEAREST, 255)
    assert labels[0, 0] == 255 and labels[HEIGHT // 2, WIDTH // 2] == 0
    depth = lens.rectify(np.ones((HEIGHT, WIDTH), np.float32), cv2.INTER_NEAREST, np.nan)
    assert np.isnan(depth[0, 0]) and depth[HEIGHT // 2, WIDTH // 2] == 1


def test_lenses_that_cannot_be_used():
    with pytest.raises(CameraError, match='double_sphere.*--rectified yes'):
        Rectification(info((0.1,) * 6, model='double_sphere'))
    with pytest.raises(CameraError, match='no K'):
        Rectification(info(BARREL, k=np.zeros((3, 3))))
