"""``python -m train evaluate``: a model against the ground truth of data.

Depth by the protocol of Eigen et al. 2014, odometry by SfMLearner's snippets, by ATE and RPE and
by the KITTI benchmark's drift, semantics by IoU. An exported model is judged as the file that the
robot runs, through the engine that the robot uses.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from depth_ros.core.camera import ImageFit, Intrinsics
from depth_ros.core.metrics.depth import (
    ALIGNED,
    DepthMetrics,
    DepthTable,
    depth_table,
    mean_depth_metrics,
)
from depth_ros.core.metrics.semantics import confusion, edge_mask, semantics_table
from depth_ros.core.metrics.trajectory import snippet_metrics, trajectory_table
from depth_ros.inference.classes import ClassMap
from depth_ros.inference.loader import BACKENDS
from train.data.sequences import (
    LISTED,
    DataError,
    find_sequences,
    read_image,
    read_map,
    read_sequence,
    resize_map,
    stored_size,
)
from train.data.sequences import Sequence as Recording
from train.data.velodyne import project_velodyne, raw_projection, read_calibration, read_points, row
from train.evaluation.points import HELD_OUT, POINTS, TOLD, point_truth
from train.evaluation.predict import Predictor, chain, load_predictor
from train.evaluation.results import as_json, draw, table, write, write_picture, write_results

SNIPPET = 5
TASKS = ('depth', 'semantics', 'odometry')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line."""
    parser.add_argument(
        'data', type=Path, nargs='?', help='a sequence folder, or a folder of them; or use --kitti'
    )
    parser.add_argument(
        '--model',
        '--models',
        type=Path,
        default=Path('models'),
        metavar='PATH',
        help='folder with perception.onnx and pose.onnx, one of them, or a '
        '.ckpt of a training (%(default)s)',
    )
    parser.add_argument(
        '--tasks',
        nargs='+',
        choices=TASKS,
        default=TASKS,
        metavar='TASK',
        help='what to evaluate, where there is ground truth: depth semantics odometry (all)',
    )
    parser.add_argument(
        '--out',
        type=Path,
        metavar='FOLDER',
        help='write metrics.json, tables, trajectories and pictures there',
    )
    parser.add_argument(
        '--pictures',
        type=int,
        default=8,
        metavar='N',
        help='pictures in --out: half of them the worst, the others evenly spread (%(default)s)',
    )
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the numbers there')
    parser.add_argument('--backend', choices=BACKENDS, default='auto', help='of .onnx files')
    parser.add_argument('--threads', type=int, default=2, help='of .onnx files (%(default)s)')

    depth = parser.add_argument_group('depth')
    depth.add_argument(
        '--cap',
        type=float,
        nargs='+',
        metavar='METRES',
        help='farthest ground truth that counts; several give several rows '
        '(80 50; improved ground truth: 80, all of it counts)',
    )
    depth.add_argument(
        '--crop',
        choices=('garg', 'none'),
        help="count only Garg's crop (garg for --kitti with classic ground truth, else none)",
    )
    depth.add_argument(
        '--resize',
        choices=('disparity', 'depth'),
        default='disparity',
        help='what is interpolated to the size of the ground truth: disparity as '
        'monodepth2 and FSRE-Depth do, depth as SfMLearner (%(default)s)',
    )
    depth.add_argument(
        '--flip', action='store_true', help='average with the mirrored image (Godard et al. 2017)'
    )
    depth.add_argument(
        '--edge-radius',
        type=float,
        default=5,
        metavar='PIXELS',
        help='errors are also given within so many pixels of a semantic edge (%(default)s)',
    )
    depth.add_argument(
        '--structure-points',
        choices=POINTS,
        help="judge depth against the points of 'train structure': held_out, the tenth that no "
        'training has seen, or all, for sequences that none has (default: depth/, and held_out '
        'where there is none)',
    )
    depth.add_argument(
        '--kitti',
        type=Path,
        metavar='FOLDER',
        help='KITTI raw data, with folders by date: judge depth on --split of it',
    )
    depth.add_argument(
        '--split',
        type=Path,
        metavar='FILE',
        help="list of KITTI images: 'date/drive frame l' or paths, a line each",
    )
    depth.add_argument(
        '--truth',
        choices=('classic', 'improved'),
        default='classic',
        help="ground truth of --kitti: classic, the Velodyne's points as Eigen et "
        'al. project them; or improved, the maps of Uhrig et al. 2017, under '
        'proj_depth/groundtruth of each drive, or of train/ and val/ as '
        'KITTI packs them (%(default)s)',
    )

    semantics = parser.add_argument_group('semantics')
    semantics.add_argument(
        '--semantics-dir',
        default='semantics',
        metavar='NAME',
        help='folder of the true labels in a sequence (%(default)s)',
    )
    semantics.add_argument(
        '--classes',
        metavar='FILE',
        help="true classes, if they are not the model's: camvid, or a YAML or "
        'JSON file with names (in the order of their ids; higher ids do '
        "not count) and map (the model's class: true class)",
    )


def run(args: argparse.Namespace) -> None:
    """Evaluate, print and write.

    Raises:
        DataError: if there is nothing to compare the model with, or an option is wrong.
    """
    if (args.data is None) == (args.kitti is None):
        raise DataError('name either a folder of sequences or --kitti with --split')
    if args.cap and min(args.cap) <= 0 or args.pictures < 0:
        raise DataError('--cap must be positive and --pictures not negative')
    predictor = load_predictor(args.model, args.backend, args.threads)
    protocol = Protocol.of(args)
    classes = None
    if predictor.classes:
        classes = ClassMap.read(args.classes, predictor.classes)
    result = Result(args.tasks)
    recordings: list[Recording] = []
    if args.kitti is not None:
        frames = _kitti_frames(args, predictor, result.notes)
    else:
        recordings = _recordings(args.data)
        frames = [frame for r in recordings for frame in _frames(r, predictor, args)]
    frames = [
        f
        for f in frames
        if f.depth and 'depth' in args.tasks or f.labels and 'semantics' in args.tasks
    ]
    evaluate_frames(frames, predictor, protocol, classes, result)
    if 'odometry' in args.tasks:
        evaluate_odometry(recordings, predictor, result)
    report = {
        'model': str(args.model),
        'data': str(args.kitti or args.data),
        **result.report(protocol, classes),
    }
    print(table(report))
    if args.json:
        write(args.json, as_json(report))
    if args.out:
        write_results(args.out, report, result, classes)
        pictures = args.out / 'pictures'
        for old in pictures.glob('[0-9][0-9]_*.jpg'):  # of another run
            old.unlink()
        for number, frame in enumerate(tqdm(result.pick(frames, args.pictures), 'pictures')):
            write_picture(
                pictures / f'{number:02d}_{frame.sequence}_{frame.name}.jpg',
                draw(frame, predictor, protocol, classes),
            )


# What is judged -----------------------------------------------------------------------------------


class Frame(NamedTuple):
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
    """

    sequence: str
    name: str
    image: Path
    depth: Callable[[], np.ndarray] | None
    labels: Path | None
    focal: float
    truth: str = 'depth'
    metric: bool = True


class Protocol(NamedTuple):
    """How depth is judged; see the command line."""

    caps: tuple[float, ...]
    crop: str | None
    resize: str
    flip: bool
    limit_truth: bool
    edge_radius: float

    @classmethod
    def of(cls, args: argparse.Namespace) -> Protocol:
        """The protocol that the command line asks for."""
        improved = args.kitti is not None and args.truth == 'improved'
        classic = args.kitti is not None and not improved
        crop = args.crop or ('garg' if classic else 'none')
        return cls(
            tuple(args.cap or ((80.0,) if improved else (80.0, 50.0))),
            None if crop == 'none' else crop,
            args.resize,
            args.flip,
            not improved,
            args.edge_radius,
        )

    def resized(self, depth: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Depth at the size of the ground truth, interpolated by the rule."""
        if self.resize == 'depth':
            return cv2.resize(depth, shape[::-1])
        return 1 / cv2.resize(1 / depth, shape[::-1])

    @property
    def options(self) -> dict:
        """Options of :func:`prepare_depth` besides its caps and scaling."""
        return {'crop': self.crop, 'limit_truth': self.limit_truth}

    def table(
        self,
        depth: np.ndarray,
        truth: np.ndarray,
        focal: float,
        edges: np.ndarray | None,
        affine: bool = False,
    ) -> DepthTable:
        """Errors of one image's depth (h, w); see :func:`depth_table`."""
        return depth_table(
            self.resized(depth, truth.shape),
            truth,
            factor=None if affine else focal,
            affine=affine,
            caps=self.caps,
            edges=edges,
            **self.options,
        )


@dataclass
class Result:
    """What has been measured so far; see :meth:`report`.

    Attributes:
        tasks: what was asked for.
        depth: by frame, metrics by row of the table.
        scales: by frame, the factor of median scaling, or of scale and shift.
        matrix: label confusion.
        trajectories: numbers by sequence.
        labelled: number of label images in it.
        snippets: metrics of each snippet by sequence.
        poses: by sequence: estimate, truth (N, 4, 4), both from their first camera, and times.
        left_out: by frame, what is wrong with a file of it.
        notes: what was not evaluated, and why.
    """

    tasks: Sequence[str] = TASKS
    depth: dict[Frame, dict[str, DepthMetrics]] = field(default_factory=dict)
    scales: dict[Frame, float] = field(default_factory=dict)
    matrix: np.ndarray | None = None
    labelled: int = 0
    trajectories: dict[str, dict] = field(default_factory=dict)
    poses: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=dict)
    snippets: dict[str, list] = field(default_factory=dict)
    left_out: dict[Frame, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def report(self, protocol: Protocol, classes: ClassMap | None) -> dict:
        """The numbers as plain, JSON-ready data.

        Raises:
            DataError: if nothing was measured.
        """
        report: dict = {}
        if self.depth:
            rows = defaultdict(list)
            for metrics in self.depth.values():
                for row, values in metrics.items():
                    rows[row].append(values)
            scales = np.array(list(self.scales.values()))
            report['depth'] = {
                'images': len(self.depth),
                'protocol': protocol._asdict(),
                'truth': sorted({frame.truth for frame in self.depth}),
                'scale_median': float(np.median(scales)),
                'scale_spread': float(np.std(scales / np.median(scales))),
                **{row: mean_depth_metrics(values)._asdict() for row, values in rows.items()},
            }
        if self.matrix is not None and self.matrix.any():
            report['semantics'] = {
                'images': self.labelled,
                **semantics_table(self.matrix, [c.name for c in classes.classes]),
            }
        if self.trajectories:
            report['trajectories'] = self.trajectories
        found = {'depth': 'depth', 'semantics': 'semantics', 'trajectories': 'odometry'}
        missing = [t for t in self.tasks if t not in {found[k] for k in report}]
        if not report:
            raise DataError(
                '; '.join(
                    [
                        'the data has no depth/, structure.npz, semantics/ or poses.txt to '
                        'compare this model with',
                        *self.notes,
                    ]
                )
            )
        if missing:
            report['not_evaluated'] = missing
        if self.notes:
            report['notes'] = self.notes
        return report

    def pick(self, frames: Sequence[Frame], count: int) -> list[Frame]:
        """Frames to look at: half the worst by Abs Rel, the others evenly spread."""
        errors = {
            f: rows[name].abs_rel
            for f, rows in self.depth.items()
            for name in ALIGNED
            if name in rows
        }
        worst = sorted(errors, key=lambda f: -errors[f])[: count // 2]
        others = [
            f if f in self.depth else f._replace(depth=None)
            for f in frames
            if f not in worst and f not in self.left_out and (f in self.depth or f.labels)
        ]
        even = np.linspace(0, len(others) - 1, min(count - len(worst), len(others))).astype(int)
        return worst + [others[i] for i in even]


def _recordings(root: Path) -> list[Recording]:
    """The sequences in ``root``, which may be one with public data's names."""
    if any(p.is_dir() for p in root.glob('image_*')):
        return [read_sequence(root, calibrated=False)]
    return find_sequences(root, calibrated=False)


def _frames(recording: Recording, predictor: Predictor, args: argparse.Namespace) -> list[Frame]:
    size = stored_size(recording)
    focal = _focal(recording.intrinsics, size, predictor) if size else 1.0
    structure = recording.structure()
    frames = []
    for index, image in enumerate(recording.images):
        depth = recording.depth_path(index)
        labels = recording.folder / args.semantics_dir / f'{image.stem}.png'
        measured = args.structure_points is None and depth.exists()
        which = args.structure_points or HELD_OUT
        frames.append(
            Frame(
                recording.folder.name,
                image.stem,
                image,
                partial(read_map, depth, recording.depth_scale)
                if measured
                else point_truth(structure, index, which, size),
                labels if labels.exists() else None,
                focal,
                'depth' if measured else which,
                measured or structure is None or structure.is_metric(index),
            )
        )
    return frames


def _focal(intrinsics: np.ndarray, size: Sequence[float], predictor: Predictor) -> float:
    """What the nodes multiply depth by for another camera; 1 where a camera is not known."""
    if predictor.camera is None or not np.isfinite(intrinsics).all():
        return 1.0
    camera = Intrinsics.from_matrix(intrinsics, int(size[0]), int(size[1]))
    return ImageFit.create(camera, predictor.camera).depth_factor


def _kitti_frames(args: argparse.Namespace, predictor: Predictor, notes: list[str]) -> list[Frame]:
    """The frames of ``--split``; what is missing on disk goes to ``notes``.

    Raises:
        DataError: if the list or the calibration cannot be read, or nothing in the list is there.
    """
    if args.split is None:
        raise DataError('--kitti needs --split: a list of the images to judge')
    names = read_split(args.split)
    cameras: dict[tuple[str, int], tuple[np.ndarray, tuple[int, int], float]] = {}
    frames, missing = [], []
    for date, drive, number, camera in names:
        folder = args.kitti / date / drive
        image = next(
            (
                f
                for suffix in ('png', 'jpg')
                if (f := folder / f'image_{camera:02d}' / 'data' / f'{number}.{suffix}').exists()
            ),
            None,
        )
        truth = _kitti_truth(args, folder, number, camera)
        if image is None or truth is None:
            missing.append(f'{date}/{drive} {number}')
            continue
        if (date, camera) not in cameras:
            cameras[date, camera] = _kitti_camera(args.kitti / date, camera, predictor)
        projection, shape, focal = cameras[date, camera]
        read = (
            partial(read_map, truth, 1 / 256)
            if args.truth == 'improved'
            else partial(_read_velodyne, truth, projection, shape)
        )
        frames.append(Frame(drive, f'{number}_{camera}', image, read, None, focal))
    if not frames:
        raise DataError(
            f"none of the {len(names)} images in '{args.split}' is under "
            f"'{args.kitti}' with {args.truth} ground truth, such as {missing[0]}: "
            'expected folders date/drive/image_02/data'
        )
    if missing:
        notes.append(
            f'{len(missing)} of {len(names)} listed images lack the image or '
            f'{args.truth} ground truth, such as {missing[0]}'
        )
    return frames


def read_split(path: Path) -> list[tuple[str, str, str, int]]:
    """Date, drive, frame and camera of each line of a list of KITTI raw images.

    Lines are ``date/drive frame l`` (or ``r``), or ``date/drive/image_02/data/frame.png``.

    Raises:
        DataError: if the file cannot be read or a line is neither.
    """
    try:
        lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the list '{path}': {error}") from error
    names = []
    for line in lines:
        found = re.fullmatch(r'(\w+)/(\w+)\s+(\d+)\s+([lr])', line) or re.fullmatch(
            r'(\w+)/(\w+)/image_0(?P<camera>[23])/data/(\d+)\.\w+', line
        )
        if found is None:
            raise DataError(
                f"'{path}': cannot understand '{line}'; expected 'date/drive frame l' "
                "or 'date/drive/image_02/data/frame.png'"
            )
        date, drive, a, b = found.groups()
        number, camera = (b, int(a)) if 'camera' in found.groupdict() else (a, '  lr'.index(b))
        names.append((date, drive, f'{int(number):010d}', camera))
    if not names:
        raise DataError(f"the list '{path}' is empty")
    return names


def _kitti_truth(args: argparse.Namespace, folder: Path, number: str, camera: int) -> Path | None:
    """File of the ground truth, if it is there."""
    if args.truth == 'classic':
        files = [folder / 'velodyne_points' / 'data' / f'{number}.bin']
    else:
        inner = Path('proj_depth', 'groundtruth', f'image_{camera:02d}', f'{number}.png')
        files = [
            drive / inner
            for drive in (
                folder,
                args.kitti / 'train' / folder.name,
                args.kitti / 'val' / folder.name,
            )
        ]
    return next((f for f in files if f.exists()), None)


def _kitti_camera(
    date: Path, camera: int, predictor: Predictor
) -> tuple[np.ndarray, tuple[int, int], float]:
    """Velodyne to pixels (3, 4), (height, width) of the image, and the depth's factor."""
    path = date / 'calib_cam_to_cam.txt'
    rows = read_calibration(path)
    width, height = row(rows, f'S_rect_{camera:02d}', path).astype(int)
    intrinsics = row(rows, f'P_rect_{camera:02d}', path).reshape(3, 4)[:, :3]
    return (
        raw_projection(date, camera),
        (height, width),
        _focal(intrinsics, (width, height), predictor),
    )


def _read_velodyne(path: Path, projection: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return project_velodyne(read_points(path), projection, shape, 'eigen')


# Judging ------------------------------------------------------------------------------------------


def evaluate_frames(
    frames: Sequence[Frame],
    predictor: Predictor,
    protocol: Protocol,
    classes: ClassMap | None,
    result: Result,
) -> None:
    """Judge depth and classes, as far as the model and the data have them.

    A frame with a file that cannot be used is left out, and noted.
    """
    if not frames:
        return
    if predictor.perception_size is None:
        result.notes.append('the model has no perception network')
        return
    empty = 0
    for frame in tqdm(frames, 'perception', unit='frame'):
        try:
            image = read_image(frame.image, *predictor.perception_size)
            truth = frame.depth() if frame.depth and 'depth' in result.tasks else None
            true_labels = None if frame.labels is None else read_map(frame.labels)
        except (DataError, OSError) as error:
            result.left_out[frame] = str(error)
            continue
        depth, labels = predictor.perceive(image, protocol.flip)
        if truth is not None and depth is not None:
            edges = (
                None
                if true_labels is None
                else edge_mask(resize_map(true_labels, *truth.shape[::-1]), protocol.edge_radius)
            )
            found = protocol.table(depth, truth, frame.focal, edges, predictor.affine)
            if not frame.metric:  # nothing that asks for metres
                found = DepthTable({ALIGNED[predictor.affine]: found.aligned}, found.scale)
            if found.rows:
                result.depth[frame], result.scales[frame] = found.rows, found.scale
            empty += not found.rows
        if true_labels is not None and labels is not None and 'semantics' in result.tasks:
            wanted = classes.truth(true_labels)
            found = classes.predicted(resize_map(labels, *wanted.shape[::-1]))
            matrix = confusion(found, wanted, len(classes.classes))
            result.matrix = matrix if result.matrix is None else result.matrix + matrix
            result.labelled += 1
    judged = Counter(frame.truth for frame in result.depth)
    for which in POINTS:
        if judged[which]:
            result.notes.append(
                f'depth in {judged[which]} frames is judged against points of structure from '
                f'motion, {TOLD[which]}: static things with texture, within some 80 m'
            )
    if predictor.affine and result.depth:
        result.notes.append(
            'the model knows depth only up to scale and shift of its inverse; both '
            'are fitted to the truth in each image'
        )
    if empty:
        result.notes.append(f'{empty} depth maps have no pixel that counts')
    if result.left_out:
        result.notes.append(
            f'{len(result.left_out)} of {len(frames)} frames are left out, as a '
            'file of each cannot be used:'
        )
        result.notes += list(result.left_out.values())[:LISTED]


def evaluate_odometry(
    recordings: Sequence[Recording], predictor: Predictor, result: Result
) -> None:
    """Judge the trajectory of each sequence that has true poses."""
    recordings = [r for r in recordings if r.poses is not None]
    if recordings and predictor.pose_size is None:
        result.notes.append('the model has no pose network')
        return
    with tqdm(
        total=sum(len(r.images) for r in recordings),
        desc='odometry',
        unit='frame',
        disable=not recordings,
    ) as bar:
        for recording in recordings:
            name = recording.folder.name

            def images(recording: Recording = recording) -> Iterator[np.ndarray]:
                for path in recording.images:
                    yield read_image(path, *predictor.pose_size)
                    bar.update()

            try:
                windows = list(predictor.windows(images()))
                estimate = chain(windows)
                truth = np.linalg.inv(recording.poses[0]) @ recording.poses
                # A network that sees as many frames as a snippet has is judged on what it says.
                snippets = (
                    windows
                    if predictor.views == SNIPPET
                    else [estimate[i : i + SNIPPET] for i in range(len(estimate) - SNIPPET + 1)]
                )
                result.snippets[name] = [
                    snippet_metrics(s, truth[i : i + SNIPPET]) for i, s in enumerate(snippets)
                ]
                result.trajectories[name] = trajectory_table(estimate, truth, result.snippets[name])
            except ValueError as error:  # too short, or it does not move
                result.notes.append(f'trajectory of {name}: {error}')
                continue
            times = recording.times if recording.times is not None else np.arange(len(truth))
            result.poses[name] = estimate, truth, times
