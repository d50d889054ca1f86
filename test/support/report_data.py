"""Results of an evaluation, small and made up, as the report and the comparison take them."""

import json
from pathlib import Path

import numpy as np

from depth_ros.core.metrics.depth import DepthMetrics
from depth_ros.evaluation.frame_evaluator import Evaluation
from depth_ros.evaluation.frame_scores import Example
from depth_ros.inference.contract import POSE_CONVENTION, ModelContract, SemanticClass

CLASSES = (SemanticClass(0, 'road', (128, 64, 128)), SemanticClass(1, 'sky', (70, 130, 180)))
SHAPE = (60, 200)
FRAMES = 40
NODES = ('perception_node', 'odometry_node')


def contracts(metric: bool = True, nodes: tuple[str, ...] = NODES) -> dict[str, ModelContract]:
    size = {'input_width': 64, 'input_height': 48, 'intrinsics': (50, 50, 32, 24)}
    both = {
        'perception_node': ModelContract(
            'perception',
            'net',
            outputs=('depth', 'labels'),
            depth_range=(0.1, 100),
            metric=metric,
            classes=CLASSES,
            provenance={'licence': 'a & b'},
            **size,
        ),
        'odometry_node': ModelContract(
            'pose',
            'motion',
            outputs=('pose',),
            metric=metric,
            pose_convention=POSE_CONVENTION,
            **size,
        ),
    }
    return {node: both[node] for node in nodes}


def frames(truth: bool = True, nodes: tuple[str, ...] = NODES, first: int = 0) -> dict:
    """Columns of the table of frames, from the frame `first` on."""
    time = np.arange(first, FRAMES) / 10
    columns = {'stamp': 1.7e9 + time, 'perception_ms': 30 + time, 'odometry_ms': 9 + time}
    if truth:
        columns |= {'abs_rel': 0.1 + 0.01 * time, 'scale': 1 + 0.01 * time, 'position_error': time}
        columns['abs_rel'][-2] = np.nan
    if len(nodes) == 2:
        columns |= {'photometric': 0.05 + 0 * time, 'photometric_static': 0.1 + 0 * time}
    return columns


def evaluation(truth: bool = True, nodes: tuple[str, ...] = NODES) -> Evaluation:
    """Two examples and two worst frames."""
    rng = np.random.default_rng(0)
    examples = []
    for index in range(4):
        example = Example(
            int(1.7e18) + 10**9 * index,
            np.full((*SHAPE, 3), 40 * index, np.uint8),
            rank=max(0, index - 1),
        )
        if 'perception_node' in nodes:
            example.depth = rng.uniform(3, 60, SHAPE).astype(np.float32)
            example.labels = rng.integers(0, 2, SHAPE).astype(np.uint8)
            if truth:
                example.true_depth, example.true_labels = example.depth, example.labels
                example.abs_rel, example.error = 0.123, np.zeros(SHAPE, np.float32)
        examples.append(example)
    path = np.cumsum(rng.uniform(0, 1, (FRAMES, 3)), axis=0)
    path = path if 'odometry_node' in nodes else path[:0]
    known = path if truth else path[:0]
    aligned = np.tile(np.eye(4), (len(known), 1, 1))
    aligned[:, :3, 3] = 2 * known
    return Evaluation(
        numbers={},
        frames={},
        examples=examples,
        estimate=path,
        aligned_poses=aligned,
        truth=2 * known,
        poses=(np.empty(0, np.int64), np.empty((0, 4, 4)), np.empty((0, 4, 4))),
        notes=[] if truth else ['no ground truth in this recording'],
    )


def found(
    truth: bool = True,
    nodes: tuple[str, ...] = NODES,
    mode: str = 'offline',
    recording: str = 'some/street',
) -> dict:
    """What metrics.json holds."""
    names = ('median_scaled', 'as_published', 'near_edges', '0_to_10m', '10_to_20m', 'class:road')
    rows = {
        name: dict(zip(DepthMetrics._fields, (np.arange(7) + 1 + index) / 100, strict=True))
        for index, name in enumerate(names)
    }
    seen = truth and 'perception_node' in nodes
    moved = 'odometry_node' in nodes
    latency = {'p50': 31.4, 'p95': 40.0, 'p99': 45.0, 'max': 50.0}
    return {
        'mode': mode,
        'recording': recording,
        'models': {
            node: {
                'path': f'{node}.onnx',
                'name': contract.name,
                'width': 64,
                'height': 48,
                'metric': contract.metric,
                'backend': 'onnxruntime',
                'threads': 2,
            }
            for node, contract in contracts(nodes=nodes).items()
        },
        'topics': {'image': '/camera/image_rect', 'depth': None},
        'settings': {'fit': 'stretch', 'every': 1, 'classes': None},
        'frames': {'recorded': FRAMES + 2, 'judged': FRAMES, 'skipped': {'its data is cut off': 2}},
        'dropped_percent': 5.0 if mode == 'live' else None,
        'rate': 1.0,
        'timing': {
            'duration_s': 3.9,
            'median_period_s': 0.1,
            'gaps': [[1.5, 0.75]],
            'clock_jumps': 0,
            'duplicate_stamps': 3,
        },
        'latency_ms': {
            'perception': latency if 'perception_node' in nodes else None,
            'odometry': latency if moved else None,
        },
        'age_ms': None,
        'stages_ms': {'perception_node': {'inference': 12.25}},
        'speed': {'frames_per_s': 21.5, 'frames_per_s_without_inference': 101.5},
        'depth': {
            'frames': FRAMES - 1,
            'rows': rows,
            'baselines': {
                'constant': dict.fromkeys(DepthMetrics._fields, 0.4375),
                'constant_in_metres': {**dict.fromkeys(DepthMetrics._fields, 0.5), 'depth': 12.5},
            },
            'scale_median': 1.0625,
            'scale_spread': 0.04,
            'scale_drift_percent_per_minute': -2.125,
            'coverage': 0.975,
        }
        if seen
        else None,
        'semantics': {
            'frames': FRAMES,
            'mean_iou': 0.8125,
            'pixel_accuracy': 0.96875,
            'iou': {'road': 0.9375, 'sky': 0.6875},
            'classes': ['road', 'sky'],
            'confusion': [[75, 25, 0], [10, 70, 20]],
            'baselines': {'one_class': {'mean_iou': 0.25, 'pixel_accuracy': 0.5}},
        }
        if seen
        else None,
        'trajectory': {
            'poses': FRAMES,
            'length': 50.0,
            'scale': 2.0,
            'ate_se3': 4.5,
            'ate_sim3': 0.25,
            'ate_scale': 0.75,
            'rpe_se3': 0.03,
            'rpe_sim3': 0.02,
            'rpe_scale': 0.021,
            'rpe_rotation_deg': 0.05,
            'baselines': {'standing_still': {'ate_se3': 14.5, 'ate_sim3': 14.5, 'rpe_se3': 1.25}},
        }
        if truth and moved
        else None,
        'odometry': {'poses': FRAMES, 'length': 25.0, 'missed': {'a gap': 2}} if moved else None,
        'consistency': {
            'frames': FRAMES - 1,
            'photometric': 0.05,
            'photometric_static': 0.1,
            'explained_percent': 50.0,
            'inconsistency': 0.03,
            'scale_step_spread_percent': 1.0,
            'scale_drift_percent_per_minute': None,
        }
        if len(nodes) == 2
        else None,
        'scale': {
            'source': 'height of the camera, 1.65 m',
            'truth': 'depth',
            'sources': {
                'height': {
                    'known_percent': 87.5,
                    'median': 1.0625,
                    'sigma_percent': 4.5,
                    'error_percent': -3.25,
                    'mean_abs_error_percent': 3.5,
                    'within_7_percent': 98.5,
                    'nees': 0.75,
                }
            },
        }
        if seen
        else None,
        'player_latest_ms': 2.0,
        'notes': [],
        'node_messages': ['[WARN] [perception_node]: <odd> & so on'],
    }


def write_result(folder: Path, found: dict, frames: dict) -> Path:
    """Write what a comparison reads of a result."""
    (folder / 'trajectory').mkdir(parents=True)
    (folder / 'metrics.json').write_text(json.dumps(found))
    lines = [','.join(frames)] + [
        ','.join('' if np.isnan(v) else repr(float(v)) for v in row)
        for row in zip(*frames.values(), strict=True)
    ]
    (folder / 'frames.csv').write_text('\n'.join(lines) + '\n')
    for name in ('estimate_aligned', 'truth'):
        (folder / 'trajectory' / f'{name}.tum').write_text(
            ''.join(f'{i} {i} {i * i} 0 0 0 0 1\n' for i in range(5))
        )
    return folder
