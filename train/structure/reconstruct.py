"""Points and camera poses of one recorded drive, with COLMAP (PyPI ``pycolmap``).

The steps are SIFT features, matches with the following frames, and COLMAP's global mapper. Lengths
are not in metres: each part of a reconstruction has a unit of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from depth_ros.inference.classes import MOVABLE
from train.data.sequences import (
    UNKNOWN,
    DataError,
    Sequence,
    read_map,
    read_picture,
    resize_map,
    stored_size,
)
from train.structure.found import HALF, Lens, Reconstruction, collect
from train.structure.lens_check import fitted_focals, judge_focal

if TYPE_CHECKING:
    import pycolmap

BORDER = 0.006  # share of the image's width by which masks exceed the labels, whose edges are rough
Step = Callable[[str], object]


@dataclass(frozen=True)
class Options:
    """How to reconstruct.

    Attributes:
        features: largest number of features in an image.
        neighbours: number of following frames with which each frame is matched.
        min_angle: smallest angle between the rays to a point, degrees.
        min_part: smallest number of frames of a part.
        threads: number of COLMAP's threads.
        seed: seed of all random numbers.
        span: largest number of frames to reconstruct at once; longer drives are divided.
    """

    features: int = 2000
    neighbours: int = 6
    min_angle: float = 0.5
    min_part: int = 10
    threads: int = 1
    seed: int = 0
    span: int = 600


def reconstruct(
    sequence: Sequence,
    work: Path,
    options: Options,
    step: Step = lambda _: None,
    lens: Lens | None = None,
) -> Reconstruction:
    """Reconstruct a whole sequence at once.

    Args:
        sequence: images of one camera and size; what its labels mark as movable is masked.
        work: empty folder for COLMAP's files.
        options: options of the reconstruction.
        step: function that is called with the name of each stage as it begins.
        lens: lens that was estimated before; ``None``: that of the sequence's intrinsics, or, if
            these are unknown, it is estimated.

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
    found = collect(models, sequence, not calibrated, options.min_part)
    if found is None:
        raise DataError(_why_nothing(models, options))
    if not calibrated:
        return found
    given = float(sequence.intrinsics[0, 0])
    doubt, sure = judge_focal(given, fitted_focals(models[0], options.threads))
    if sure:
        raise DataError(
            f'{doubt}: the intrinsics are wrong, or the drive shows little more than one surface; '
            f"correct them, or write '{UNKNOWN}' to intrinsics.txt to have them estimated"
        )
    return replace(found, doubt=doubt)


def one_size(sequence: Sequence) -> tuple[int, int]:
    """Width and height of the images, which must all be the same.

    Raises:
        DataError: if they differ, or an image cannot be read.
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
    """Write masks of everything movable for COLMAP; returns whether there are labels."""
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
    """Estimate an initial focal length from the matches of all pairs.

    Raises:
        DataError: if no focal length fits.
    """
    import pycolmap

    if not pycolmap.calibrate_view_graph(database):
        raise DataError(
            'no focal length fits the matches: give intrinsics, or a drive with more texture and '
            'turns'
        )


def _map(
    database: Path, images: Path, work: Path, known: bool, options: Options
) -> list[pycolmap.Reconstruction]:
    """Run COLMAP's global mapper; returns its models, the largest first.

    Raises:
        DataError: if COLMAP fails.
    """
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


def _why_nothing(models: list[pycolmap.Reconstruction], options: Options) -> str:
    largest = max((model.num_reg_images() for model in models), default=0)
    if largest:
        return (
            f'only {largest} successive frames could be connected, at least {options.min_part} '
            'are needed: they are too dark, blurred or empty, or too far apart'
        )
    return (
        'no two frames show the same things from different places: the camera stands or only '
        'turns, or the images are too dark or without texture'
    )
