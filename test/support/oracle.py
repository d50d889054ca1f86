"""A model that knows the truth, and what it can see."""

import json

import cv2
import numpy as np

from depth_ros.core.camera import Intrinsics
from depth_ros.core.se3 import pose
from depth_ros.inference.classes import CITYSCAPES
from train.__main__ import main
from train.commands import evaluate
from train.evaluation.predict import Perceived, Predictor

WIDTH, HEIGHT, FRAMES = 64, 32, 8


class Oracle(Predictor):
    """Sees everything in the image: red is depth, green the class, blue the way driven, 0.1 m.

    Args:
        factor: what its depth and motion are multiplied by.
        views: of the pose network.
    """

    perception_size = pose_size = (WIDTH, HEIGHT)
    camera = Intrinsics(50, 50, 31.5, 15.5, WIDTH, HEIGHT)
    classes = CITYSCAPES

    def __init__(self, factor=1.0, views=2):
        self.factor, self.views = factor, views

    def _perceive(self, image):
        return Perceived(image[..., 0].astype(np.float32) / 10 * self.factor, image[..., 1].copy())

    def _window(self, frames):
        along = np.array([f[0, 0, 2] / 10 for f in frames]) * self.factor
        return np.stack([pose(np.eye(3), [0, 0, z - along[0]]) for z in along])


def write_street(folder):
    """A sequence that the oracle understands."""
    for name in ('images', 'depth', 'semantics'):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(FRAMES):
        image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        image[..., 0] = rng.integers(20, 250, (HEIGHT, WIDTH))
        image[:, WIDTH // 2 :, 1] = 13
        image[..., 2] = i * i  # accelerating, so that steps differ
        cv2.imwrite(str(folder / f'images/{i}.png'), image[..., ::-1])
        cv2.imwrite(str(folder / f'depth/{i}.png'), image[..., 0].astype(np.uint16) * 100)
        cv2.imwrite(str(folder / f'semantics/{i}.png'), image[..., 1])
    np.savetxt(folder / 'intrinsics.txt', [[50, 0, 31.5], [0, 50, 15.5], [0, 0, 1]])
    poses = np.tile(np.eye(4)[:3].ravel(), (FRAMES, 1))
    poses[:, 11] = np.arange(FRAMES) ** 2 / 10
    np.savetxt(folder / 'poses.txt', poses)
    return folder


def run(monkeypatch, tmp_path, predictor, *arguments):
    """Evaluate an oracle and return the report."""
    monkeypatch.setattr(evaluate, 'load_predictor', lambda *_: predictor)
    out = tmp_path / 'report.json'
    assert main(['evaluate', *map(str, arguments), '--json', str(out)]) == 0
    return json.loads(out.read_text())
