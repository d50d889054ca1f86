"""Exporting a checkpoint as the two model files, with their contracts."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import torch

import depth_ros
from depth_ros.inference.classes import CITYSCAPES
from depth_ros.inference.contract import POSE_CONVENTION, ModelContract
from depth_ros.inference.outputs import OUTPUTS
from train.data.mixture import find_training_sequences
from train.export.deployed import DeployedPerception, DeployedPose
from train.export.model_file import write_model
from train.export.scale import metric_scale, one_camera
from train.losses.table import TERMS
from train.networks.perception import fuse_for_inference
from train.training.system import System


def export_models(
    system: System,
    out: Path,
    *,
    data: Path | None = None,
    height: float | None = None,
    outputs: tuple[str, ...] | None = None,
    image_size: tuple[int, int] | None = None,
    name: str = 'street',
    license: str = 'unknown',
) -> None:
    """Write perception.onnx, pose.onnx or both to the folder ``out``.

    Args:
        system: networks of a checkpoint.
        out: the folder.
        data: sequences of the camera, for its intrinsics and the metric scale; ``None``: those of
            the training.
        height: height of the camera over the road, metres; makes the models metric.
        outputs: names in ``depth_ros.inference.outputs.OUTPUTS``; ``None``: all that the networks
            have.
        image_size: (width, height) of images that the graphs resize themselves; ``None``: they
            take images at network size.
        name, license: name and licence of the networks, to store in the files.

    Raises:
        DataError: if the sequences cannot be read.
        ValueError: if the networks lack an output that is asked for, the sequences are of several
            cameras, or too few frames show the road.
    """
    config = system.config
    outputs = _wanted(system, outputs)
    sequences = find_training_sequences(data or config.data)
    matrix = one_camera(system, sequences, str(data or config.data))
    scale, metric = 1.0, any(t.metric and t.weight_in(config) for t in TERMS)
    if height is not None:
        scale, frames = metric_scale(
            system, fuse_for_inference(system.perception), sequences, height
        )
        print(f'metric scale {scale:.3f} from the road in {frames} frames')
        metric = True
    provenance = {
        'data': str(data or config.data),
        'images': sum(len(s.images) for s in sequences),
        'steps': system.trained_steps,
        'date': date.today().isoformat(),
        'software': f'depth_ros {depth_ros.__version__}, torch {torch.__version__}',
        'license': license,
        'metric_scale': scale,
        'camera_height': height,
    }
    common = {
        'input_width': config.width,
        'input_height': config.height,
        'intrinsics': tuple(float(matrix[i]) for i in ((0, 0), (1, 1), (0, 2), (1, 2))),
        'metric': metric,
        'provenance': provenance,
    }
    size = config.height, config.width
    if image_size not in (None, size[::-1]):
        common['image_size'] = image_size
    if 'depth' in outputs:
        labels = 'labels' in outputs
        write_model(
            DeployedPerception(fuse_for_inference(system.perception, labels), scale, size),
            ModelContract(
                task='perception',
                name=f'{name}_perception',
                outputs=('depth', 'labels') if labels else ('depth',),
                classes=CITYSCAPES if labels else (),
                depth_range=(config.min_depth * scale, config.max_depth * scale),
                **common,
            ),
            out / 'perception.onnx',
        )
    if 'pose' in outputs:
        write_model(
            DeployedPose(system.pose, scale, size),
            ModelContract(
                task='pose',
                name=f'{name}_pose',
                outputs=('pose',),
                pose_convention=POSE_CONVENTION,
                **common,
            ),
            out / 'pose.onnx',
        )


def _wanted(system: System, asked: tuple[str, ...] | None) -> tuple[str, ...]:
    """Names of the outputs to export: those asked for, or else all that the networks have.

    Raises:
        ValueError: if the networks lack one that is asked for.
    """
    missing = {}
    if not (system.config.semantics and 'logits' in system.perception.outputs):
        missing['labels'] = 'the network has no semantics; train it with --semantics true'
    if not system.pose.pairs and system.config.views > 2:
        missing['pose'] = (
            f'this pose network sees {system.config.views} frames at once, the odometry node has '
            'two. Train it with --views 2, or with --pose-network light or resnet'
        )
    for name in asked or ():
        if name in missing:
            raise ValueError(f'--outputs {name}: {missing[name]}')
    if asked is None and 'pose' in missing:
        print(f'no pose model: {missing["pose"]}')
    return asked or tuple(name for name in OUTPUTS if name not in missing)
