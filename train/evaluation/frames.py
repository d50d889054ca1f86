"""The images that an evaluation judges, and what is known about each."""

from __future__ import annotations

from collections import abc
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from depth_ros.core.camera import ImageFit, Intrinsics, shown_part
from train.data.sequences import (
    Sequence,
    find_sequences,
    read_map,
    read_picture,
    read_sequence,
    resize_image,
    stored_size,
)
from train.evaluation.points import HELD_OUT, point_truth
from train.evaluation.predict import Predictor


class EvaluatedFrame(NamedTuple):
    """One image and what is known about it.

    Attributes:
        sequence, name: what it is called.
        image: its file.
        depth: reads the true depth, float32 (H, W) metres, 0 = unknown; ``None`` without.
        labels: file of the true class ids; ``None`` without.
        focal: factor from the model's depth to that of this camera.
        fit: how the image lies on the network's; ``None``: all of it, stretched.
        truth: what the true depth is: 'depth', of a sensor, or points of a reconstruction,
            'held_out' or 'all' of them.
        metric: whether the true depth is in metres, or known up to a factor only.
        camera: the camera of the image, ``None`` where it is not known.
        camera_height: of the camera over the ground, metres; 0 where it is not known.
    """

    sequence: str
    name: str
    image: Path
    depth: abc.Callable[[], np.ndarray] | None
    labels: Path | None
    focal: float
    truth: str = 'depth'
    metric: bool = True
    camera: Intrinsics | None = None
    camera_height: float = 0.0
    fit: ImageFit | None = None

    def seen(self, values: np.ndarray) -> np.ndarray:
        """The part of a map (H, W) of the image that the network sees."""
        if self.fit is None:
            return values
        return values[shown_part(self.fit.camera, self.fit.network, *values.shape[1::-1])]


def sequences_in(root: Path) -> list[Sequence]:
    """The sequences in ``root``, which may be one with public data's names."""
    if any(p.is_dir() for p in root.glob('image_*')):
        return [read_sequence(root, calibrated=False)]
    return find_sequences(root, calibrated=False)


def frames_of(
    sequence: Sequence,
    predictor: Predictor,
    semantics_dir: str,
    points: str | None,
    mode: str = 'auto',
) -> list[EvaluatedFrame]:
    """All images of a sequence.

    Args:
        sequence: the sequence.
        predictor: the model to be judged, for the factor of its depth.
        semantics_dir: name of the folder of the true labels.
        points: judge depth against these points of a reconstruction, 'held_out' or 'all' of them;
            ``None``: against measured depth, and the held-out points where there is none.
        mode: how images are fitted to the network, see :func:`image_fit`.
    """
    size = stored_size(sequence)
    camera = camera_of(sequence.intrinsics, size) if size else None
    fit = image_fit(camera, predictor.camera, mode)
    structure = sequence.structure()
    frames = []
    for index, image in enumerate(sequence.images):
        depth = sequence.depth_path(index)
        labels = sequence.folder / semantics_dir / f'{image.stem}.png'
        measured = points is None and depth.exists()
        which = points or HELD_OUT
        frames.append(
            EvaluatedFrame(
                sequence.folder.name,
                image.stem,
                image,
                partial(read_map, depth, sequence.depth_scale)
                if measured
                else point_truth(structure, index, which, size),
                labels if labels.exists() else None,
                1.0 if fit is None else fit.depth_factor,
                'depth' if measured else which,
                measured or structure is None or structure.is_metric(index),
                camera,
                sequence.camera_height or 0.0,
                fit,
            )
        )
    return frames


def camera_of(intrinsics: np.ndarray, size: abc.Sequence[float]) -> Intrinsics | None:
    """The camera of an intrinsic matrix and an image size; ``None`` where it is not known."""
    if not np.isfinite(intrinsics).all():
        return None
    return Intrinsics.from_matrix(intrinsics, int(size[0]), int(size[1]))


def fitted_image(path: Path, size: tuple[int, int], fit: ImageFit | None) -> np.ndarray:
    """What a network sees of an image, RGB uint8 (height, width, 3).

    Args:
        path: the image.
        size: width and height of the network's images.
        fit: how both lie on each other, see :func:`image_fit`.

    Raises:
        DataError: if the file cannot be used.
    """
    image = read_picture(path)
    if fit is not None:
        image = image[shown_part(fit.camera, fit.network, *image.shape[1::-1])]
    return cv2.cvtColor(resize_image(image, *size), cv2.COLOR_BGR2RGB)


def image_fit(camera: Intrinsics | None, model: Intrinsics | None, mode: str) -> ImageFit | None:
    """How images and a network's lie on each other, as the nodes have it.

    Args:
        camera: of the images, or ``None``.
        model: the network's training camera, or ``None``.
        mode: one of :data:`depth_ros.core.camera.FIT_MODES`.

    Returns:
        ``None`` where a camera is not known: the whole image is stretched.
    """
    return None if camera is None or model is None else ImageFit.create(camera, model, mode)
