"""Pictures and classes for foreign networks."""

import json

import cv2
import numpy as np
import pytest


@pytest.fixture(scope='module')
def picture():
    """A picture at the size of the small networks, with values that differ everywhere."""
    from support.foreign_models import HEIGHT, WIDTH  # here, as it needs onnx

    rng = np.random.default_rng(5)
    coarse = rng.integers(0, 256, (6, 8, 3), np.uint8)
    return cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope='module')
def picture_file(picture, tmp_path_factory):
    path = tmp_path_factory.mktemp('pictures') / 'picture.png'
    cv2.imwrite(str(path), picture[..., ::-1])
    return path


@pytest.fixture(scope='module')
def classes_file(tmp_path_factory):
    from support.foreign_models import CLASSES

    path = tmp_path_factory.mktemp('classes') / 'config.json'
    path.write_text(json.dumps({'id2label': {str(i): n for i, n in enumerate(CLASSES)}}))
    return path
