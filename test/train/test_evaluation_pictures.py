"""Pictures of ``python -m train evaluate``: in the camera's shape, with metres."""

import cv2
import numpy as np

from depth_ros.core.camera import ImageFit, Intrinsics
from train.evaluation.frames import EvaluatedFrame
from train.evaluation.predict import Perceived, Predictor
from train.evaluation.protocol import Protocol
from train.evaluation.results import draw


def test_pictures_have_the_cameras_shape_and_metres(tmp_path):
    """4:3 for a network of 640x192, not squeezed, and a legend below the depth."""
    rng = np.random.default_rng(0)
    cv2.imwrite(str(tmp_path / 'x.png'), rng.integers(0, 255, (480, 640, 3)).astype(np.uint8))
    camera = Intrinsics(500, 500, 320, 240, 640, 480)
    model = Intrinsics(371.2, 371.2, 320, 96, 640, 192)

    class Ramp(Predictor):
        perception_size = 640, 192

        def _perceive(self, image):
            depth = np.tile(np.linspace(2, 40, 192, dtype=np.float32)[:, None], (1, 640))
            return Perceived(depth, None)

        def _window(self, frames):
            raise NotImplementedError

    protocol = Protocol((80.0,), None, 'depth', False, True, 5)
    for mode, shape in (('stretch', (480, 640)), ('crop', (192, 640))):
        fit = ImageFit.create(camera, model, mode)
        frame = EvaluatedFrame(
            *('drive', 'x', tmp_path / 'x.png'),
            depth=lambda: np.full((480, 640), 20.0, np.float32),
            labels=None,
            focal=1.0,
            camera=camera,
            fit=fit,
        )
        picture = draw(frame, Ramp(), protocol, None)
        height, width = shape
        assert picture.shape == (2 * height, 2 * width, 3)
        bar = picture[height - 2, width:].astype(int)  # of the panel above on the right
        assert len(np.unique(bar, axis=0)) > 100  # all of the colours
