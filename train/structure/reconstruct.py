"""Points and camera poses of one recorded drive, with COLMAP (PyPI ``pycolmap``).

SIFT features, matches with the following frames, and COLMAP's global mapper. Nothing here knows
metres: lengths are in the reconstruction's own unit, another one in each of its parts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from train.data.sequences import (
    UNKNOWN,
    DataError,
    Sequence,
    read_map,
    read_picture,
    resize_map,
    stored_size,
)
from train.structure.lens_check import fitted_focals, judge_focal

if TYPE_CHECKING:
    import pycolmap

MOVABLE = tuple(range(11, 19))  # Cityscapes' trainIds: person, rider, car ... bicycle
SKY = 10
BORDER = 0.006  # of the picture's width that a mask is wider than the label: labels are not sharp
HALF = 0.5  # COLMAP's first pixel has its centre there, ours at zero
Step = Callable[[str], object]


@dataclass(frozen=True)
class Options:
    """How to reconstruct.

    Attributes:
        features: at most, an image.
        neighbours: each frame is matched with so many that follow it.
        min_angle: degrees between the rays to a point, at least; less is too unsure.
        min_part: frames that a part must have, at least.
        threads: of COLMAP.
        seed: of all that is random.
        span: frames at a time; a longer drive is reconstructed in spans.
    """

    features: int = 2000
    neighbours: int = 6
    min_angle: float = 0.5
    min_part: int = 10
    threads: int = 1
    seed: int = 0
    span: int = 600


@dataclass(frozen=True)
class Lens:
    """A pinhole camera with radial distortion.

    Attributes:
        matrix: (3, 3) in pixels of the images; pixel centres are at integer coordinates.
        distortion: (4,) OpenCV's k1 k2 p1 p2, zero where the images are rectified.
        estimated: whether it was found by the reconstruction.
    """

    matrix: np.ndarray
    distortion: np.ndarray
    estimated: bool

    def rays(self, xy: np.ndarray) -> np.ndarray:
        """Where pixels (n, 2) look: (n, 3) in the optical frame, with z = 1."""
        if not len(xy):
            return np.zeros((0, 3))
        where = cv2.undistortPoints(
            xy.astype(np.float64).reshape(-1, 1, 2), self.matrix, self.distortion
        )
        return np.column_stack([where.reshape(-1, 2), np.ones(len(xy))])


@dataclass(frozen=True)
class Reconstruction:
    """What was found. N frames, M observations of P points, sorted by frame.

    Attributes:
        part: (N,) int, connected part of the drive that each frame is in; -1: not registered.
        poses: (N, 4, 4) camera-to-world in its part's world and unit; NaN where not registered.
        lens: of the only camera.
        frame: (M,) int, which frame sees.
        point: (M,) int, which point, 0 .. P - 1.
        xy: (M, 2) float32, where, in pixels of the image.
        depth: (M,) float32 along the optical axis, in the part's unit.
        error: (M,) float32, reprojection error in pixels.
        track: (P,) int, frames that see a point.
        angle: (P,) float32, degrees, the widest between the rays to a point.
        world: (P, 3) float32, points in their part's world.
        doubt: what is doubtful about the intrinsics; '' for nothing.
    """

    part: np.ndarray
    poses: np.ndarray
    lens: Lens
    frame: np.ndarray
    point: np.ndarray
    xy: np.ndarray
    depth: np.ndarray
    error: np.ndarray
    track: np.ndarray
    angle: np.ndarray
    world: np.ndarray
    doubt: str = ''

    @property
    def parts(self) -> int:
        """How many parts there are."""
        return int(self.part.max(initial=-1)) + 1


def reconstruct(
    sequence: Sequence,
    work: Path,
    options: Options,
    step: Step = lambda _: None,
    lens: Lens | None = None,
) -> Reconstruction:
    """Reconstruct a sequence at once.

    Args:
        sequence: its images, all of one camera and size; labels of movable things mask these.
        work: empty folder for COLMAP's files.
        options: how.
        step: is told the name of each stage as it begins.
        lens: that was found before; where there is none and the sequence has no intrinsics
            either, it is found.

    Raises:
        DataError: if nothing can be reconstructed; the message says why.
    """
    try:
        import pycolmap
    except ImportError as error:
        raise DataError(
            'structure from motion needs COLMAP: pip install "depth_ros[structure]"'
        ) from error

    pycolmap.logging.minloglevel = pycolmap.logging.ERROR.value
    pycolmap.set_random_seed(options.seed)
    size = stored_size(sequence)
    if size is None:
        raise DataError('no image can be read')
    database = work / 'database.db'
    step('masks')
    masks = _write_masks(sequence, work / 'masks', size)
    step('features')
    reader = pycolmap.ImageReaderOptions()
    if masks:
        reader.mask_path = work / 'masks'
    calibrated = bool(np.isfinite(sequence.intrinsics).all())
    known = calibrated or lens is not None
    matrix = lens.matrix if lens else sequence.intrinsics
    centre = (matrix[0, 2] + HALF, matrix[1, 2] + HALF)
    reader.camera_model = 'PINHOLE' if calibrated else 'SIMPLE_RADIAL'
    if known:
        numbers = (
            (matrix[0, 0], *centre, lens.distortion[0])
            if lens
            else (matrix[0, 0], matrix[1, 1], *centre)
        )
        reader.camera_params = ','.join(f'{v:.9g}' for v in numbers)
    extraction = pycolmap.FeatureExtractionOptions()
    extraction.sift.max_num_features = options.features
    extraction.num_threads = options.threads
    extraction.use_gpu = False
    folder = sequence.images[0].parent
    pycolmap.extract_features(
        database,
        folder,
        [path.name for path in sequence.images],
        pycolmap.CameraMode.SINGLE,
        reader,
        extraction,
    )
    step('matches')
    matching = pycolmap.FeatureMatchingOptions()
    matching.num_threads = options.threads
    matching.use_gpu = False
    pairing = pycolmap.SequentialPairingOptions()
    pairing.overlap = options.neighbours
    pairing.quadratic_overlap = False
    pairing.num_threads = options.threads
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = options.seed
    pycolmap.match_sequential(database, matching, pairing, verification)
    step('mapping')
    if not known:
        _calibrate(database)
    models = _map(database, folder, work, known, options)
    step('points')
    found = _collect(models, sequence, calibrated, options)
    if not calibrated:
        return found
    given = float(sequence.intrinsics[0, 0])
    doubt, sure = judge_focal(given, fitted_focals(models[0], options.threads))
    if sure:
        raise DataError(
            f"{doubt}: give the right ones, or write '{UNKNOWN}' to intrinsics.txt, and they are "
            'found'
        )
    return replace(found, doubt=doubt)


def one_size(sequence: Sequence) -> tuple[int, int]:
    """Width and height of all images.

    Raises:
        DataError: if they differ or one cannot be read.
    """
    sizes: dict[tuple[int, ...], Path] = {}
    for path in sequence.images:
        sizes.setdefault(read_picture(path, cv2.IMREAD_UNCHANGED).shape[1::-1], path)
    if len(sizes) > 1:
        (a, first), (b, second), *_ = sizes.items()
        raise DataError(
            f"'{first.name}' has {a[0]}x{a[1]} pixels and '{second.name}' {b[0]}x{b[1]}: a "
            'sequence is of one camera; put the images of each into a folder of their own'
        )
    return next(iter(sizes))  # type: ignore[return-value]


def _write_masks(sequence: Sequence, folder: Path, size: tuple[int, int]) -> bool:
    """Write COLMAP's masks of all that may move, and say whether there are any."""
    if not any(sequence.semantics_path(i).exists() for i in range(len(sequence.images))):
        return False
    folder.mkdir(parents=True, exist_ok=True)
    border = max(1, round(BORDER * size[0]))
    kernel = np.ones((2 * border + 1, 2 * border + 1), np.uint8)
    for index, image in enumerate(sequence.images):
        mask = np.full(size[::-1], 255, np.uint8)
        path = sequence.semantics_path(index)
        if path.exists():
            labels = read_map(path, dtype=np.uint8)
            hidden = np.isin(labels, MOVABLE).astype(np.uint8)
            mask[resize_map(cv2.dilate(hidden, kernel), *size) != 0] = 0
        if not cv2.imwrite(str(folder / f'{image.name}.png'), mask):
            raise OSError(f"cannot write '{folder / image.name}.png': is the disk full?")
    return True


def _calibrate(database: Path) -> None:
    """Find a first focal length from the matches of all pairs, where the camera is unknown."""
    import pycolmap

    if not pycolmap.calibrate_view_graph(database):
        raise DataError(
            'no focal length fits the matches: give intrinsics, or a drive with more texture and '
            'turns'
        )


def _map(
    database: Path, images: Path, work: Path, known: bool, options: Options
) -> list[pycolmap.Reconstruction]:
    """COLMAP's models, the largest first."""
    import pycolmap

    settings = pycolmap.GlobalPipelineOptions()
    settings.num_threads = options.threads
    settings.random_seed = options.seed
    settings.min_model_size = options.min_part
    mapper = settings.mapper
    mapper.min_tri_angle_deg = options.min_angle
    mapper.retriangulation.min_angle = options.min_angle
    mapper.bundle_adjustment.refine_focal_length = not known
    mapper.bundle_adjustment.refine_extra_params = not known
    mapper.bundle_adjustment.ceres.use_gpu = False
    mapper.global_positioning.use_gpu = False
    (work / 'models').mkdir(exist_ok=True)
    try:
        found = pycolmap.global_mapping(database, images, work / 'models', settings)
    except (RuntimeError, ValueError) as error:
        raise DataError(f'COLMAP found no structure: {error}') from error
    return sorted(found.values(), key=lambda model: -model.num_reg_images())


def _collect(
    models: list[pycolmap.Reconstruction], sequence: Sequence, known: bool, options: Options
) -> Reconstruction:
    """One :class:`Reconstruction` of COLMAP's models."""
    count = len(sequence.images)
    index = {path.name: i for i, path in enumerate(sequence.images)}
    part, poses = np.full(count, -1), np.full((count, 4, 4), np.nan)
    rows: list[tuple[np.ndarray, ...]] = []
    tracks, angles, world = [], [], []
    lens = None
    number = 0
    for model in models:
        images = [
            image
            for image in model.images.values()
            if image.has_pose and part[index[image.name]] < 0
        ]
        if len(images) < options.min_part or not model.num_points3D():
            continue
        lens = lens or _lens(next(iter(model.cameras.values())), estimated=not known)
        ids = {key: len(world) + i for i, key in enumerate(sorted(model.points3D))}
        centres = {}
        for image in images:
            frame = index[image.name]
            part[frame] = number
            pose = np.eye(4)
            pose[:3] = image.cam_from_world().matrix()
            poses[frame] = np.linalg.inv(pose)
            centres[image.image_id] = poses[frame, :3, 3]
            seen = [p for p in image.points2D if p.has_point3D()]
            if seen:
                rows.append(_observations(image, seen, model, ids, frame))
        for key in sorted(model.points3D):
            point = model.points3D[key]
            world.append(point.xyz)
            tracks.append(point.track.length())
            eyes = [centres[e.image_id] for e in point.track.elements if e.image_id in centres]
            angles.append(_widest_angle(point.xyz, np.array(eyes).reshape(-1, 3)))
        number += 1
    if lens is None or not rows:
        raise DataError(_why_nothing(models, options))
    frame, point, xy, depth, error = (
        np.concatenate(column) for column in zip(*sorted(rows, key=lambda r: r[0][0]), strict=True)
    )
    return Reconstruction(
        part,
        poses,
        lens,
        frame,
        point,
        xy.astype(np.float32),
        depth.astype(np.float32),
        error.astype(np.float32),
        np.array(tracks),
        np.array(angles, np.float32),
        np.array(world, np.float32),
    )


def _observations(
    image: pycolmap.Image,
    seen: list[pycolmap.Point2D],
    model: pycolmap.Reconstruction,
    ids: dict[int, int],
    frame: int,
) -> tuple[np.ndarray, ...]:
    """Frame, point, pixel, depth and reprojection error of the points that an image sees."""
    xy = np.array([p.xy for p in seen])
    points = np.array([model.points3D[p.point3D_id].xyz for p in seen])
    matrix = image.cam_from_world().matrix()
    local = points @ matrix[:, :3].T + matrix[:, 3]
    front = local[:, 2] > 0
    camera = model.cameras[image.camera_id]
    projected = np.full_like(xy, np.nan)
    projected[front] = np.asarray(camera.img_from_cam(local[front]))
    error = np.linalg.norm(projected - xy, axis=1)
    keep = front & np.isfinite(error)
    number = np.array([ids[p.point3D_id] for p in seen])
    return (
        np.full(keep.sum(), frame),
        number[keep],
        xy[keep] - HALF,
        local[keep, 2],
        error[keep],
    )


def _widest_angle(point: np.ndarray, eyes: np.ndarray) -> float:
    """Degrees between the two rays (of those from ``eyes`` (n, 3)) that differ most."""
    rays = point - eyes
    rays /= np.linalg.norm(rays, axis=1, keepdims=True) + 1e-12
    cosine = float((rays @ rays.T).min(initial=1.0))
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def _lens(camera: pycolmap.Camera, estimated: bool) -> Lens:
    """COLMAP's camera as OpenCV's."""
    matrix = np.array(camera.calibration_matrix())
    matrix[:2, 2] -= HALF
    distortion = np.zeros(4)
    if camera.model.name == 'SIMPLE_RADIAL':
        distortion[0] = camera.params[3]
    return Lens(matrix, distortion, estimated)


def _why_nothing(models: list[pycolmap.Reconstruction], options: Options) -> str:
    largest = max((model.num_reg_images() for model in models), default=0)
    if largest:
        return (
            f'only {largest} successive frames hang together, at least {options.min_part} must: '
            'too dark, blurred or empty, or too far apart'
        )
    return (
        'no two frames show the same things from different places: the camera stands or only '
        'turns, or it is too dark, or a wall without texture'
    )
