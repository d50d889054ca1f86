"""``python -m train evaluate``: exported models against the ground truth of sequence folders.

What is judged is the file that the robot runs, through the engine that the robot uses.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from depth_ros.camera import ImageFit, Intrinsics
from depth_ros.contract import ContractError
from depth_ros.engine import BACKENDS, Engine, load_engine
from depth_ros.metrics import (
    DepthMetrics,
    confusion,
    depth_metrics,
    iou,
    mean_depth_metrics,
    mean_iou,
    trajectory_metrics,
)
from depth_ros.odometry import pose, rotation_from_vector
from train.sequences import DataError, Sequence, find_sequences, read_image, read_map


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line."""
    parser.add_argument('data', type=Path, help='a sequence folder, or a folder of them')
    parser.add_argument('--models', type=Path, default=Path('models'),
                        help='folder with perception.onnx and pose.onnx (%(default)s)')
    parser.add_argument('--json', type=Path, help='write the numbers to this file, too')
    parser.add_argument('--max-depth', type=float, default=80.0,
                        help='farthest ground truth that counts, metres (%(default)s)')
    parser.add_argument('--crop', choices=('garg',), help="count only Garg's crop")
    parser.add_argument('--backend', choices=BACKENDS, default='auto')
    parser.add_argument('--threads', type=int, default=2)


def run(args: argparse.Namespace) -> None:
    """Evaluate and print."""
    engines = {name: load_engine(args.models / f'{name}.onnx', args.backend, args.threads)
               for name in ('perception', 'pose')}
    for task, engine in engines.items():
        if engine.contract.task != task:
            raise ContractError(f"'{args.models / task}.onnx' is a {engine.contract.task} model")
    result = Result()
    sequences = find_sequences(args.data)
    with tqdm(total=sum(len(s.images) for s in sequences), unit='frame') as bar:
        for sequence in sequences:
            _evaluate(sequence, engines, args.max_depth, args.crop, result, bar)
    report = result.report(engines['perception'].contract.classes)
    print(_table(report))
    if args.json:
        part = args.json.with_suffix('.part')
        part.write_text(json.dumps(report, indent=2) + '\n')
        os.replace(part, args.json)


@dataclass
class Result:
    """What has been measured so far; see :meth:`report`."""

    scaled: list[DepthMetrics] = field(default_factory=list)
    unscaled: list[DepthMetrics] = field(default_factory=list)
    matrix: np.ndarray | None = None
    trajectories: dict[str, dict[str, float]] = field(default_factory=dict)

    def report(self, classes: tuple) -> dict:
        """The numbers as plain, JSON-ready data.

        Raises:
            DataError: if the data had no ground truth at all.
        """
        report: dict = {}
        if self.scaled:
            report['depth'] = {
                'images': len(self.scaled),
                'median_scaled': mean_depth_metrics(self.scaled)._asdict(),
                'as_published': mean_depth_metrics(self.unscaled)._asdict()}
        if self.matrix is not None and self.matrix.any():
            values = iou(self.matrix)
            seen = self.matrix.sum(1) > 0
            report['semantics'] = {
                'mean_iou': mean_iou(self.matrix),
                'iou': {c.name: float(values[c.id]) for c in classes if seen[c.id]}}
        if self.trajectories:
            report['trajectories'] = self.trajectories
        if not report:
            raise DataError('the data has no depth/, semantics/ or poses.txt to compare with')
        return report


def _evaluate(sequence: Sequence, engines: Mapping[str, Engine], max_depth: float,
              crop: str | None, result: Result, bar: tqdm) -> None:
    """Add one sequence to ``result``."""
    classes = len(engines['perception'].contract.classes)
    if result.matrix is None:
        result.matrix = np.zeros((classes, classes + 1), np.int64)
    previous, world = None, np.eye(4)
    path = [world[:3, 3]]
    for index, image_path in enumerate(sequence.images):
        images = {name: _read(image_path, engine) for name, engine in engines.items()}
        depth_path, labels_path = sequence.depth_path(index), sequence.semantics_path(index)
        if depth_path.exists() or labels_path.exists():
            outputs = engines['perception'].infer({'image': images['perception']})
        if depth_path.exists():
            truth = read_map(depth_path, 1e-3)
            # Inverse depth is what the network is smooth in.
            depth = 1 / cv2.resize(1 / outputs['depth'], truth.shape[::-1])
            focal = _focal_ratio(sequence, truth.shape, engines['perception'])
            options = {'max_depth': max_depth, 'crop': crop}
            result.scaled.append(depth_metrics(depth, truth, median_scaling=True, **options))
            result.unscaled.append(depth_metrics(depth * focal, truth, **options))
        if labels_path.exists():
            truth = read_map(labels_path)
            labels = cv2.resize(outputs['labels'], truth.shape[::-1],
                                interpolation=cv2.INTER_NEAREST)
            result.matrix += confusion(labels, truth, classes)
        if previous is not None and sequence.poses is not None:
            step = engines['pose'].infer({'previous': previous, 'current': images['pose']})['pose']
            world = world @ pose(rotation_from_vector(step[:3]), step[3:])
            path.append(world[:3, 3])
        previous = images['pose']
        bar.update()
    if sequence.poses is not None:
        found = trajectory_metrics(np.array(path), sequence.poses[:, :3, 3])
        result.trajectories[sequence.folder.name] = {
            'ate_se3': found.ate_se3, 'ate_sim3': found.ate_sim3, 'scale': found.scale,
            'length': found.length}


def _read(path: Path, engine: Engine) -> np.ndarray:
    return read_image(path, engine.contract.input_width, engine.contract.input_height)[None]


def _focal_ratio(sequence: Sequence, shape: tuple[int, int], engine: Engine) -> float:
    """Camera's focal length over the model's, at network size: what depth is multiplied by."""
    (fx, _, cx), (_, fy, cy), _ = sequence.intrinsics
    contract = engine.contract
    return ImageFit.create(
        Intrinsics(fx, fy, cx, cy, shape[1], shape[0]),
        Intrinsics(*contract.intrinsics, contract.input_width, contract.input_height)).depth_factor


def _table(report: Mapping) -> str:
    lines = []
    if 'depth' in report:
        names = DepthMetrics._fields
        lines.append(f'depth, {report["depth"]["images"]} images'.ljust(24)
                     + ''.join(f'{n:>10}' for n in names))
        for kind in ('median_scaled', 'as_published'):
            values = report['depth'][kind]
            lines.append(f'  {kind}'.ljust(24) + ''.join(f'{values[n]:10.3f}' for n in names))
    if 'semantics' in report:
        lines.append(f'semantics, mean IoU {report["semantics"]["mean_iou"]:.3f}')
        lines += [f'  {n:<22}{v:10.3f}' for n, v in report['semantics']['iou'].items()]
    if 'trajectories' in report:
        lines.append('trajectory'.ljust(24) + ''.join(
            f'{n:>12}' for n in ('length m', 'ATE SE3 m', 'ATE Sim3 m', 'scale')))
        for name, t in report['trajectories'].items():
            values = (t['length'], t['ate_se3'], t['ate_sim3'], t['scale'])
            lines.append(f'  {name}'.ljust(24) + ''.join(f'{v:12.3f}' for v in values))
    return '\n'.join(lines)
