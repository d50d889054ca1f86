"""``python -m train measure``: judge a model on recordings that it was not trained on.

Each row also shows the score of a constant (one depth, one class, or no motion) and of a flat
ground. Metres are those of the model, scaled by the ratio of the focal lengths; where the camera's
height is known, the error of the scale from it is shown beside them.

The folder may hold any of these data sets; missing ones are skipped:

- ``kitti_lidar_frames/*/``: image.png, velodyne.bin, calib.txt (KITTI's object benchmark);
- ``indoor_handheld/``: a sequence with depth, whose last third is judged;
- ``camvid/test/``: images/ and labels/ of 11 classes.

``--synthetic`` names synthetic drives with depth and semantics, ``--structure`` sequences with a
structure.npz, of cameras that the model never saw.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from depth_ros.core.camera import ImageFit, Intrinsics
from depth_ros.core.ground import Ground, ground_from_depth, ground_weights
from depth_ros.core.metrics.baselines import (
    CONSTANT,
    FLAT,
    IN_METRES,
    BestConstant,
    depth_baselines,
)
from depth_ros.core.metrics.depth import DepthMetrics, mean_depth_metrics, prepare_depth
from depth_ros.core.metrics.depth import depth_errors as errors
from depth_ros.core.metrics.semantics import confusion, mean_iou
from depth_ros.evaluation.structure import FILE
from depth_ros.files import write_file
from depth_ros.inference.classes import ClassMap
from train.data.public import kitti_frame
from train.data.sequences import (
    Sequence,
    find_sequences,
    read_image,
    read_map,
    read_picture,
    read_sequence,
    resize_image,
    resize_map,
)
from train.data.windows import sure_points
from train.evaluation.corruption import CORRUPTIONS
from train.evaluation.kitti import CAMERA_HEIGHT
from train.evaluation.predict import MODELS, Predictor, load_predictor

SYNTHETIC_HEIGHT = 1.65
"""Metres of synthetic cameras over the road, unless a sequence says another."""

STILL_FRAMES = 300
STILL_NOISE = 4.0
"""Standard deviation, in grey levels, of the noise of a standing camera's sensor."""


class View(NamedTuple):
    """An image and its true depth.

    Attributes:
        image: BGR uint8 (H, W, 3).
        depth: float32 (H, W) along the optical axis, 0 = unknown.
        intrinsics: (3, 3), pixels of the image.
        metric: whether depth is in metres; otherwise in an unknown unit.
        camera_height: height of the camera over the ground, metres, 0 = unknown.
    """

    image: np.ndarray
    depth: np.ndarray
    intrinsics: np.ndarray
    metric: bool = True
    camera_height: float = 0.0

    @property
    def camera(self) -> Intrinsics | None:
        """The camera, ``None`` where it is not known."""
        if not np.isfinite(self.intrinsics).all():
            return None
        return Intrinsics.from_matrix(self.intrinsics, *self.image.shape[1::-1])


class Row(NamedTuple):
    """A line of the table.

    Attributes:
        name: what was judged.
        images: number of images.
        values: scores of the model, by name.
        trivial: scores of a constant, by name.
        ground: scores of a flat ground below a level camera, by name.
    """

    name: str
    images: int
    values: dict[str, float]
    trivial: dict[str, float]
    ground: dict[str, float] = {}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = __doc__
    parser.add_argument('data', type=Path, help='folder of the recordings')
    parser.add_argument(
        '--model', type=Path, default=MODELS, help='folder, .onnx or .ckpt (default: shipped)'
    )
    parser.add_argument(
        '--synthetic',
        type=Path,
        default=Path('data/street_val'),
        help='folder of synthetic drives with depth and semantics (%(default)s)',
    )
    parser.add_argument(
        '--structure',
        type=Path,
        nargs='*',
        default=[],
        metavar='FOLDER',
        help='reconstructed sequences of cameras that the model never saw',
    )
    parser.add_argument('--every', type=int, default=1, metavar='N', help='use every N-th frame')
    parser.add_argument('--json', type=Path, metavar='FILE', help='also write the numbers as JSON')
    parser.add_argument(
        '--threads', type=int, default=2, help='threads for .onnx files (%(default)s)'
    )


def run(args: argparse.Namespace) -> None:
    """Judge the model and print the table."""
    predictor = load_predictor(args.model, threads=args.threads)
    rows = [row for row in measure(args, predictor) if row is not None]
    print(table(rows))
    if args.json:
        content = {row.name: {**row._asdict()} for row in rows}
        write_file(args.json, json.dumps(content, indent=1).encode())


def measure(args: argparse.Namespace, predictor: Predictor) -> Iterator[Row | None]:
    """Yield each row when it is measured."""
    data, every = args.data, args.every
    frames = sorted((data / 'kitti_lidar_frames').glob('*/velodyne.bin'))
    views = (View(*kitti_frame(f.parent), camera_height=CAMERA_HEIGHT) for f in frames)
    clean = judge_depth('KITTI, lidar', views, predictor)
    yield clean
    if clean is not None:
        yield judge_corrupted('KITTI, lidar, corrupted', frames, clean, predictor)
    yield judge_depth(
        'indoors, held-out third', _indoor(data / 'indoor_handheld', every), predictor
    )
    if args.synthetic.is_dir():
        sequences = find_sequences(args.synthetic)
        views = (
            v._replace(camera_height=s.camera_height or SYNTHETIC_HEIGHT)
            for s in sequences
            for v in _with_depth(s, range(0, len(s.images), every))
        )
        yield judge_depth('synthetic test seeds', views, predictor)
        yield judge_labels(
            'synthetic test seeds, masks', _labelled(sequences, every), predictor, None
        )
    for folder in args.structure:
        name = f'points of {folder.name}'
        yield judge_depth(name, _with_points(folder, every), predictor)
    test = data / 'camvid' / 'test'
    if test.is_dir():
        pairs = [
            (i, test / 'labels' / f'{i.stem}.png') for i in sorted((test / 'images').iterdir())
        ]
        yield judge_labels('CamVid test, 11 classes', pairs[::every], predictor, 'camvid')
    if frames:
        image = read_picture(frames[0].parent / 'image.png')
        yield from judge_still(image, predictor)


def _indoor(folder: Path, every: int) -> Iterator[View]:
    if folder.is_dir():
        sequence = read_sequence(folder)
        count = len(sequence.images)
        yield from _with_depth(sequence, range(-(-2 * count // 3), count, every))


def _with_depth(sequence: Sequence, indices: Iterable[int]) -> Iterator[View]:
    for i in indices:
        depth = read_map(sequence.depth_path(i), sequence.depth_scale)
        image = read_picture(sequence.images[i])
        height = sequence.camera_height or 0.0
        yield View(image, depth.astype(np.float32), sequence.intrinsics, True, height)


def _with_points(folder: Path, every: int) -> Iterator[View]:
    sequence = read_sequence(folder)
    structure = sequence.structure()
    if structure is None:
        raise ValueError(f"'{folder}' has no {FILE}: make it by 'python -m train structure'")
    for i in range(0, len(sequence.images), every):
        points = sure_points(structure, i)
        if len(points.depth) < 10:
            continue
        image = read_picture(sequence.images[i])
        depth = points.as_map(image.shape[:2])
        yield View(image, depth, sequence.intrinsics, points.metric)


def _labelled(sequences: list[Sequence], every: int) -> list[tuple[Path, Path]]:
    return [
        (s.images[i], s.semantics_path(i))
        for s in sequences
        for i in range(0, len(s.images), every)
    ]


def judge_depth(name: str, views: Iterable[View], predictor: Predictor) -> Row | None:
    """Judge depth: Abs Rel and delta < 1.25 up to 80 m, after median scaling and in metres.

    Where the camera's height is known, also the error of the scale from it, in single images.

    Args:
        name: name of the data.
        views: images with true depth; a sparse map is judged where it is known.
        predictor: the model.

    Returns:
        The row; ``None`` without images or without a depth network.
    """
    if predictor.perception_size is None:
        return None
    weights = ground_weights({c.name: c.id for c in predictor.classes})
    scaled, published, scales, by_height = [], [], [], []
    trivial = defaultdict(list)
    best = BestConstant()
    for view in tqdm(views, name, unit='image', disable=None):
        rgb = cv2.cvtColor(view.image, cv2.COLOR_BGR2RGB)
        small, labels = predictor.perceive(resize_image(rgb, *predictor.perception_size))
        if small is None:
            return None
        height, width = view.depth.shape
        depth = 1 / cv2.resize(1 / small, (width, height)) * _factor(view, predictor)
        prepared = prepare_depth(depth, view.depth, median_scaling=True)
        truth = view.depth[prepared.valid]
        scaled.append(errors(prepared.depth[prepared.valid], truth))
        for row, found in depth_baselines(
            view.depth, view.camera, height=view.camera_height if view.metric else 0.0
        ).items():
            trivial[row].append(found)
        if view.metric:
            best.add(view.depth)
            published.append(errors(np.clip(depth[prepared.valid], 1e-3, 80), truth))
            scales.append(prepared.scale)
            if view.camera_height and view.camera is not None:
                camera = view.camera.resized(*small.shape[::-1])
                factor = _factor(view, predictor)
                ground = ground_from_depth(small, camera, labels, weights, factor=factor)
                if isinstance(ground, Ground):
                    by_height.append(view.camera_height / ground.height / prepared.scale - 1)
    if not scaled:
        return None
    values = _two(scaled)
    if published:
        middle = float(np.median(scales))
        values |= {f'in metres: {key}': value for key, value in _two(published).items()}
        values |= {'scale': middle, 'spread': float(np.std(np.array(scales) / middle))}
    if by_height:
        values |= {
            'scale by height, images': float(len(by_height)),
            'scale by height, median error': float(np.median(by_height)),
            'scale by height, mean error': float(np.abs(by_height).mean()),
        }
    constant, flat = _two(trivial[CONSTANT]), {}
    if (found := best.errors()) is not None:
        metres = _two([found[1]])
        constant |= {f'in metres: {key}': value for key, value in metres.items()}
    for row, prefix in ((FLAT, ''), (FLAT + IN_METRES, 'in metres: ')):
        if trivial[row]:
            flat |= {f'{prefix}{key}': value for key, value in _two(trivial[row]).items()}
    return Row(name, len(scaled), values, constant, flat)


def judge_corrupted(name: str, frames: list[Path], clean: Row, predictor: Predictor) -> Row:
    """Abs Rel of images that are spoilt in several ways, and how much is lost on the average.

    Args:
        name: of the row.
        frames: files in the folders of the frames.
        clean: what the model scores on them as they are.
        predictor: the model.
    """
    values, losses = {}, []
    for kind, corrupt in CORRUPTIONS.items():
        views = (View(*kitti_frame(f.parent)) for f in frames)
        spoilt = (view._replace(image=corrupt(view.image)) for view in views)
        row = judge_depth(kind, spoilt, predictor)
        assert row is not None  # the model has depth
        values[f'{kind}: Abs Rel'] = row.values['Abs Rel']
        losses.append(100 * (row.values['Abs Rel'] / clean.values['Abs Rel'] - 1))
    values['mean relative loss, %'] = float(np.mean(losses))
    constant = {key: clean.trivial['Abs Rel'] for key in values}
    constant['mean relative loss, %'] = 0.0
    return Row(name, len(frames), values, constant)


def _two(images: list[DepthMetrics]) -> dict[str, float]:
    """The two numbers that the table shows, means over images."""
    mean = mean_depth_metrics(images)
    return {'Abs Rel': mean.abs_rel, 'delta1': mean.a1}


def _factor(view: View, predictor: Predictor) -> float:
    """Factor by which the nodes multiply depth for this camera."""
    if predictor.camera is None or view.camera is None:
        return 1.0
    return ImageFit.create(view.camera, predictor.camera).depth_factor


def judge_labels(
    name: str, pairs: list[tuple[Path, Path]], predictor: Predictor, classes: str | None
) -> Row | None:
    """Judge classes: mean IoU over the classes in the truth.

    The constant is the most frequent true class for every pixel.

    Args:
        name: name of the data.
        pairs: paths of images and of their label images.
        predictor: the model.
        classes: label set of the truth, as ``ClassMap.read`` takes it.

    Returns:
        The row; ``None`` without images or without classes.
    """
    if not pairs or not predictor.classes:
        return None
    assert predictor.perception_size is not None  # its network has the classes
    table = ClassMap.read(classes, predictor.classes)
    count = len(table.classes)
    matrix = np.zeros((count, count + 1), np.int64)
    for image, labels in tqdm(pairs, name, unit='image', disable=None):
        found = predictor.labels(read_image(image, *predictor.perception_size))
        wanted = table.truth(read_map(labels))
        found = table.predicted(resize_map(found, *wanted.shape[::-1]))
        matrix += confusion(found, wanted, count)
    most = matrix.sum(1).max() / matrix.sum() / (matrix.sum(1) > 0).sum()
    return Row(name, len(pairs), {'mean IoU': mean_iou(matrix)}, {'mean IoU': float(most)})


def judge_still(image: np.ndarray, predictor: Predictor) -> Iterator[Row | None]:
    """Judge the motion of a standing camera: one picture, repeated with and without noise.

    The steps of the pose network are chained without any filter. Yields, for each case, a row with
    the distance between the first and the last position, the length of the path, and the largest
    translation and rotation of one step.
    """
    if predictor.pose_size is None:
        return
    rgb = resize_image(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), *predictor.pose_size)
    for name, noise in (('the same picture', 0.0), ('with noise', STILL_NOISE)):
        rng = np.random.default_rng(0)
        frames = (
            np.clip(np.rint(rgb + noise * rng.standard_normal(rgb.shape)), 0, 255).astype(np.uint8)
            for _ in range(STILL_FRAMES)
        )
        poses = predictor.snippet(tqdm(frames, name, STILL_FRAMES, unit='frame', disable=None))
        steps = np.linalg.inv(poses[:-1]) @ poses[1:]
        cosines = np.clip((np.trace(steps[:, :3, :3], axis1=1, axis2=2) - 1) / 2, -1, 1)
        values = {
            'drift, m': float(np.linalg.norm(poses[-1, :3, 3])),
            'path, m': float(np.linalg.norm(steps[:, :3, 3], axis=1).sum()),
            'largest step, m': float(np.linalg.norm(steps[:, :3, 3], axis=1).max()),
            'largest turn, deg': float(np.degrees(np.arccos(cosines)).max()),
        }
        yield Row(f'standing camera, {name}', STILL_FRAMES, values, dict.fromkeys(values, 0.0))


def table(rows: list[Row]) -> str:
    """Format rows as a Markdown table with one line for each value."""
    lines = [
        '| Data | Images | Measure | Model | A constant | Flat ground |',
        '|---|---|---|---|---|---|',
    ]
    for row in rows:
        for name, value in row.values.items():
            trivial, ground = (
                f'{other[name]:.3f}' if name in other else '' for other in (row.trivial, row.ground)
            )
            lines.append(
                f'| {row.name} | {row.images} | {name} | {value:.3f} | {trivial} | {ground} |'
            )
    return '\n'.join(lines)
