"""What a model file says about its camera: intrinsics, and metres a model unit."""

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


@torch.inference_mode()
def camera_matrix(system: System, sequence: Sequence, samples: int = 20) -> np.ndarray:
    """Intrinsics (3, 3) of a sequence at network size: as calibrated, or as the network learnt them
    (the median over samples)."""
    config = system.config
    if config.focal:  # the network's own camera, whatever the data's
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
    """Metres per model unit: the median, over frames, of true by estimated camera height.

    The road is where the network says so; without a semantic decoder, the ground ahead.

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
            '--data with road in front of the camera, or leave out --camera-height'
        )
    return float(np.median(ratios)), len(ratios)
