"""The images that an evaluation judges, and what is known about each."""

from __future__ import annotations

from collections import abc
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from depth_ros.core.camera import ImageFit, Intrinsics
from train.data.sequences import Sequence, find_sequences, read_map, read_sequence, stored_size
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


def sequences_in(root: Path) -> list[Sequence]:
    """The sequences in ``root``, which may be one with public data's names."""
    if any(p.is_dir() for p in root.glob('image_*')):
        return [read_sequence(root, calibrated=False)]
    return find_sequences(root, calibrated=False)


def frames_of(
    sequence: Sequence, predictor: Predictor, semantics_dir: str, points: str | None
) -> list[EvaluatedFrame]:
    """All images of a sequence.

    Args:
        sequence: the sequence.
        predictor: the model to be judged, for the factor of its depth.
        semantics_dir: name of the folder of the true labels.
        points: judge depth against these points of a reconstruction, 'held_out' or 'all' of them;
            ``None``: against measured depth, and the held-out points where there is none.
    """
    size = stored_size(sequence)
    focal = focal_factor(sequence.intrinsics, size, predictor) if size else 1.0
    camera = camera_of(sequence.intrinsics, size) if size else None
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
                focal,
                'depth' if measured else which,
                measured or structure is None or structure.is_metric(index),
                camera,
                sequence.camera_height or 0.0,
            )
        )
    return frames


def focal_factor(intrinsics: np.ndarray, size: abc.Sequence[float], predictor: Predictor) -> float:
    """What the nodes multiply depth by for another camera; 1 where a camera is not known."""
    camera = camera_of(intrinsics, size)
    if predictor.camera is None or camera is None:
        return 1.0
    return ImageFit.create(camera, predictor.camera).depth_factor


def camera_of(intrinsics: np.ndarray, size: abc.Sequence[float]) -> Intrinsics | None:
    """The camera of an intrinsic matrix and an image size; ``None`` where it is not known."""
    if not np.isfinite(intrinsics).all():
        return None
    return Intrinsics.from_matrix(intrinsics, int(size[0]), int(size[1]))
