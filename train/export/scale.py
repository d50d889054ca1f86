"""What a model file says about its camera: intrinsics, and metres per model unit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from depth_ros.inference.classes import ROAD
from train.data.sequences import Sequence, read_image, scaled_intrinsics
from train.export.deployed import DeployedPerception
from train.losses.camera_height import camera_height
from train.training.system import System

SAME = 0.03
"""Largest relative difference between focal lengths in calibrations of one camera."""

SAME_LEARNT = 0.2
"""Largest relative difference between focal lengths that a network learned of one camera."""

LOOKED_AT = 8
"""Largest number of sequences whose learned focal lengths are compared."""


def one_camera(system: System, sequences: list[Sequence], place: str) -> np.ndarray:
    """Intrinsics (3, 3) at network size of the camera of all sequences, see :func:`camera_matrix`.

    The nodes scale depth by the focal length, so a model must be for one.

    Args:
        system: networks of a checkpoint.
        sequences: sequences of the camera.
        place: what messages call the sequences.

    Raises:
        ValueError: if the sequences are of cameras with different focal lengths.
    """
    known = system.config.focal or system.camera is None
    if not known:
        sequences = sequences[:: -(-len(sequences) // LOOKED_AT)]
    matrices = [camera_matrix(system, sequence) for sequence in sequences]
    focal = np.array([[matrix[0, 0], matrix[1, 1]] for matrix in matrices])
    low, high = focal.argmin(0), focal.argmax(0)
    for axis, name in enumerate(('fx', 'fy')):
        least, most = focal[low[axis], axis], focal[high[axis], axis]
        if most > least * (1 + (SAME if known else SAME_LEARNT)):
            first, second = sequences[low[axis]].folder, sequences[high[axis]].folder
            raise ValueError(
                f"'{place}' has sequences of several cameras: at network size {name} is "
                f"{least:.1f} pixels in '{first}' and {most:.1f} in '{second}', and the models "
                "take one: give one camera's sequences with --data"
            )
    return matrices[0]


@torch.inference_mode()
def camera_matrix(system: System, sequence: Sequence, samples: int = 20) -> np.ndarray:
    """Intrinsics (3, 3) of a sequence, in pixels at network size.

    They are those of the network's own camera if it has one (``focal``), else as calibrated, or,
    if the network learns them, the median of its estimates.

    Args:
        system: networks of a checkpoint.
        sequence: the sequence.
        samples: number of samples from which the network estimates them.
    """
    config = system.config
    if config.focal:
        center = (config.width - 1) / 2, (config.height - 1) / 2
        return np.array([[config.focal, 0, center[0]], [0, config.focal, center[1]], [0, 0, 1]])
    if system.camera is None:
        return scaled_intrinsics(sequence, config.width, config.height).astype(float)
    last = len(sequence.images) - config.views
    found = []
    for start in np.linspace(0, last, min(samples, last + 1), dtype=int):
        frames = np.stack(
            [
                read_image(path, config.width, config.height)
                for path in sequence.images[start : start + config.views]
            ]
        )
        frames = torch.from_numpy(frames).permute(0, 3, 1, 2)[None] / 255
        found.append(system.motion(frames).intrinsics[0].double().numpy())
    return np.median(found, 0)


@torch.inference_mode()
def metric_scale(
    system: System, net: nn.Module, sequences: list[Sequence], height: float, frames: int = 200
) -> tuple[float, int]:
    """Measure metres per model unit: the median ratio of true to estimated camera height.

    The road is where the network labels it; without a semantic decoder, it is the ground ahead.

    Args:
        system: networks of a checkpoint.
        net: its depth network, fused for inference.
        sequences: sequences of the camera.
        height: true height of the camera over the road, metres.
        frames: number of frames to measure, at most.

    Returns:
        The scale, and the number of frames that it is from.

    Raises:
        ValueError: if hardly any frame shows a road.
    """
    images = [(s, path) for s in sequences for path in s.images]
    chosen = np.linspace(0, len(images) - 1, min(frames, len(images)), dtype=int)
    images = [images[i] for i in chosen]
    config, deployed = system.config, DeployedPerception(net, 1.0)
    cameras: dict[Path, np.ndarray] = {}
    ratios = []
    for sequence, path in tqdm(images, desc='scale', unit='frame', disable=None):
        image = torch.from_numpy(read_image(path, config.width, config.height))[None]
        if sequence.folder not in cameras:
            cameras[sequence.folder] = camera_matrix(system, sequence)
        depth, *labels = deployed(image)
        road = labels[0] == ROAD if labels else torch.ones_like(depth, dtype=torch.bool)
        estimate = camera_height(
            1 / depth[None, None], road[None], torch.from_numpy(cameras[sequence.folder])[None]
        ).item()
        if np.isfinite(estimate):
            ratios.append(height / estimate)
    if len(ratios) < max(3, len(images) // 10):
        raise ValueError(
            f'the road is seen in {len(ratios)} of {len(images)} frames only: give '
            '--data that shows a road in front of the camera, or leave out --camera-height'
        )
    return float(np.median(ratios)), len(ratios)
