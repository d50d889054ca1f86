"""Reading the files that ``adopt_model`` is given: classes, camera, pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from depth_ros.core.camera import Intrinsics, check_intrinsics
from depth_ros.core.labels import UNLABELED
from depth_ros.core.pictures import ImageError, decode_picture
from depth_ros.deploy.adopt.options import AdoptionError
from depth_ros.inference.classes import KNOWN
from depth_ros.inference.contract import SemanticClass
from depth_ros.inference.self_test import FRAMES
from depth_ros.share import share_path


def read_classes(source: str) -> tuple[SemanticClass, ...]:
    """Read classes, in the order of their ids: a known set by its name, or a YAML or JSON file.

    The file holds a list of names, a list of objects with ``name`` and ``color`` (r, g, b), or,
    under ``id2label`` as Hugging Face's config.json or at the top, an object of names by id.
    Classes without a colour get one.

    Raises:
        AdoptionError: if the file cannot be used.
    """
    if source in KNOWN:
        found: Any = list(KNOWN[source]['names'])
    else:
        try:
            found = yaml.safe_load(Path(source).read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise AdoptionError(
                f"--classes '{source}' is none of {', '.join(KNOWN)}, and no file "
                f'that can be read: {error}'
            ) from error
    try:
        if isinstance(found, dict):
            found = found.get('id2label', found.get('names', found))
        if isinstance(found, dict):
            by_id = {int(i): name for i, name in found.items()}
            found = [by_id[i] for i in range(len(by_id))]
        classes = []
        for index, item in enumerate(found):
            item = item if isinstance(item, dict) else {'name': item}
            red, green, blue = item.get('color') or _color(index)
            color = int(red), int(green), int(blue)
            classes.append(SemanticClass(index, str(item['name']), color))
    except (KeyError, TypeError, ValueError) as error:
        raise AdoptionError(
            f"--classes '{source}' must hold a list of names, or names by ids from 0 on: {error!r}"
        ) from error
    if not 0 < len(classes) <= UNLABELED:
        raise AdoptionError(
            f"--classes '{source}' names {len(classes)} classes; the contract has "
            f'ids for 1 to {UNLABELED}'
        )
    return tuple(classes)


def _color(index: int) -> tuple[int, int, int]:
    """A colour for a class; hues of consecutive ids are a golden angle apart, so they differ."""
    hue, value = int(index * 137.508) % 180, 255 - 70 * (index // 6 % 3)
    pixel = np.array([[[hue, 160 + 60 * (index % 2), value]]], np.uint8)
    red, green, blue = cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0].tolist()
    return red, green, blue


def read_camera(path: Path) -> Intrinsics:
    """Read the rectified camera from a YAML file of camera_calibration, or of a message.

    Raises:
        AdoptionError: if the file cannot be used.
    """
    try:
        found = next(d for d in yaml.safe_load_all(path.read_text()) if d)
        if 'image_width' in found:
            size = found['image_width'], found['image_height']
            p = found.get('projection_matrix', {}).get('data') or [0.0] * 12
            k = found['camera_matrix']['data']
        else:
            size, p, k = (found['width'], found['height']), found['p'], found['k']
        fx, fy, cx, cy = (p[0], p[5], p[2], p[6]) if p[0] > 0 else (k[0], k[4], k[2], k[5])
        width, height = map(int, size)
        camera = Intrinsics(float(fx), float(fy), float(cx), float(cy), width, height)
        if not (camera.width > 0 and camera.height > 0):
            raise ValueError('sizes must be positive')
        check_intrinsics(camera)
    except (
        OSError,
        UnicodeDecodeError,
        yaml.YAMLError,
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        StopIteration,
        AttributeError,
    ) as error:
        raise AdoptionError(
            f"--camera-info '{path}' is no calibration ({error!r}): it must be "
            "camera_calibration's YAML file, or a camera_info message as 'ros2 "
            "topic echo --once' prints it"
        ) from error
    return camera


def read_pictures(paths: Sequence[Path] | None) -> list[np.ndarray]:
    """Pictures to try a network on, uint8 (H, W, 3) RGB.

    Args:
        paths: files, of which the first two are read; ``None``: those that come with the package.

    Raises:
        AdoptionError: if one cannot be read.
    """
    if not paths:
        try:
            paths = [share_path(name) for name in FRAMES]
        except FileNotFoundError as error:
            raise AdoptionError(f'{error}; give pictures with --image') from error
    pictures = []
    for path in paths[:2]:
        if not path.is_file():
            what = 'is a folder' if path.is_dir() else 'does not exist'
            raise AdoptionError(f"--image '{path}' {what}; give a picture")
        try:
            picture = decode_picture(path.read_bytes(), upright=True)
        except (OSError, ImageError) as error:
            raise AdoptionError(
                f"--image '{path}' is no picture that can be read: {error}"
            ) from error
        pictures.append(np.ascontiguousarray(picture[..., ::-1]))
    return pictures
