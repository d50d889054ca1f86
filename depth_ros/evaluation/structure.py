"""What structure from motion says of a drive: points with depth in each frame, and camera poses.

``structure.npz`` lies in a sequence folder beside ``images/``; ``python -m train structure``
writes it (docs/structure.md). A tenth of the points is held out from training, so that owners
without lidar have something to judge depth by.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from depth_ros.core.camera import Intrinsics
from depth_ros.core.pictures import ImageError, picture_size
from depth_ros.core.pointcloud import nearest_depth
from depth_ros.files import natural, write_file

FILE = 'structure.npz'
TYPES = {
    'part': np.int32,
    'poses': np.float64,
    'metric_spread': np.float32,
    'starts': np.int64,
    'xy': np.float32,
    'depth': np.float32,
    'sigma': np.float32,
    'error': np.float32,
    'track': np.int32,
    'angle': np.float32,
    'point': np.int32,
    'held_out': np.bool_,
    'intrinsics': np.float64,
}


class StructureError(ValueError):
    """A structure file cannot be used; the message names it and the remedy."""


@dataclass(frozen=True)
class FramePoints:
    """The points that one frame sees, K of them.

    Attributes:
        xy: float32 (K, 2), where, pixels of the image as stored; centres at integers.
        depth: float32 (K,), along the optical axis, metres if ``metric``.
        sigma: float32 (K,), relative standard deviation of the depth.
        held_out: bool (K,), not to be trained on.
        metric: whether depth is in metres, or known up to a factor only.
    """

    xy: np.ndarray
    depth: np.ndarray
    sigma: np.ndarray
    held_out: np.ndarray
    metric: bool

    def only(self, chosen: np.ndarray) -> FramePoints:
        """Those where ``chosen``, bool (K,)."""
        return FramePoints(
            self.xy[chosen],
            self.depth[chosen],
            self.sigma[chosen],
            self.held_out[chosen],
            self.metric,
        )

    def as_map(self, shape: tuple[int, int]) -> np.ndarray:
        """Depth map float32 (H, W) with the points in it, 0 elsewhere, as sparse ground truth.

        Where several lie in one pixel, the nearest is what the camera sees.

        Args:
            shape: height and width of the image as stored.
        """
        column, row = np.rint(self.xy.astype(np.float64)).T
        return np.nan_to_num(nearest_depth(column, row, self.depth, shape))


@dataclass(frozen=True)
class Structure:
    """Structure of one sequence: N frames, M observations of points sorted by frame, S parts.

    Attributes:
        part: int32 (N,), connected part of the drive that a frame is in; -1: not registered.
            Poses and relative depths of different parts have nothing to do with each other.
        poses: float64 (N, 4, 4), camera-to-world of its part, optical frame; NaN where not
            registered. Metres where the part is metric.
        metric_spread: float32 (S,), relative standard deviation of a part's metres; NaN where
            lengths are relative, and the usual depth of the frames around is 1.
        starts: int64 (N + 1,), frame i has observations ``starts[i]`` to ``starts[i + 1]``.
        xy: float32 (M, 2), pixels of the image as stored; pixel centres are at integers.
        depth: float32 (M,), along the optical axis.
        sigma: float32 (M,), relative standard deviation of depth by parallax and error.
        error: float32 (M,), reprojection error, pixels.
        track: int32 (M,), frames that see the point.
        angle: float32 (M,), degrees, widest between the rays to the point.
        point: int32 (M,), its number.
        held_out: bool (M,), whether it is kept from training.
        intrinsics: float64 (3, 3), pixels of the images as stored.
    """

    part: np.ndarray
    poses: np.ndarray
    metric_spread: np.ndarray
    starts: np.ndarray
    xy: np.ndarray
    depth: np.ndarray
    sigma: np.ndarray
    error: np.ndarray
    track: np.ndarray
    angle: np.ndarray
    point: np.ndarray
    held_out: np.ndarray
    intrinsics: np.ndarray

    def __len__(self) -> int:
        return len(self.part)

    @property
    def registered(self) -> np.ndarray:
        """Bool (N,), whether a frame's pose is known."""
        return self.part >= 0

    def is_metric(self, index: int) -> bool:
        """Whether frame ``index`` has depth and pose in metres."""
        part = self.part[index]
        return bool(part >= 0 and np.isfinite(self.metric_spread[part]))

    def points(self, index: int) -> FramePoints:
        """The points that frame ``index`` sees."""
        seen = slice(*self.starts[index : index + 2])
        return FramePoints(
            self.xy[seen],
            self.depth[seen],
            self.sigma[seen],
            self.held_out[seen],
            self.is_metric(index),
        )

    def motion(self, source: int, target: int) -> np.ndarray | None:
        """T_target_source (4, 4): takes points from camera ``source`` to camera ``target``.

        ``None`` where it is not known. Metres if :meth:`is_metric`.
        """
        if self.part[source] < 0 or self.part[source] != self.part[target]:
            return None
        return np.linalg.inv(self.poses[target]) @ self.poses[source]

    def write(self, path: Path) -> None:
        """Write it; the file appears whole or not at all."""
        stream = io.BytesIO()
        np.savez_compressed(stream, **{name: getattr(self, name) for name in TYPES})
        write_file(path, stream.getvalue())

    @classmethod
    def read(cls, path: Path, frames: int | None = None) -> Structure:
        """Read and check a file.

        Args:
            path: ``structure.npz``.
            frames: how many images the sequence has.

        Raises:
            StructureError: if it is damaged, or of other images.
        """
        remedy = 'make it again with python -m train structure'
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name].astype(kind) for name, kind in TYPES.items()}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise StructureError(f"cannot read '{path}' ({error}): {remedy}") from error
        found = cls(**arrays)
        problem = found._problem()
        if problem:
            raise StructureError(f"'{path}' is damaged, {problem}: {remedy}")
        if frames is not None and len(found) != frames:
            raise StructureError(
                f"'{path}' is of {len(found)} images, there are {frames}: {remedy}"
            )
        return found

    def _problem(self) -> str:
        """What does not fit together, if anything."""
        count, seen = len(self.part), len(self.depth)
        shapes = {
            'poses': (count, 4, 4),
            'starts': (count + 1,),
            'xy': (seen, 2),
            'intrinsics': (3, 3),
        }
        shapes |= {
            name: (seen,) for name in ('sigma', 'error', 'track', 'angle', 'point', 'held_out')
        }
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                return f'{name} is {getattr(self, name).shape}, must be {shape}'
        if self.starts[0] != 0 or self.starts[-1] != seen or (np.diff(self.starts) < 0).any():
            return 'starts do not fit the points'
        if self.part.max(initial=-1) >= len(self.metric_spread):
            return 'a part has no scale'
        if not np.isfinite(self.poses[self.registered]).all():
            return 'a registered frame has no pose'
        return '' if (self.depth > 0).all() else 'a depth is not positive'


class PointTruth:
    """Points of structure from motion as the true depth of a recording's images.

    Args:
        folder: sequence folder that was made of the recording by ``python -m train prepare`` and
            ``structure``; or a folder of such, with one that is called ``name``.
        name: of the recording.
        which: 'held_out', the tenth that no training has seen, or 'all'.
        tolerance: how far in time a frame of it may be from an image, ns.

    Attributes:
        folder: the sequence folder.
        which: as given.
        frames: how many frames of it have such points, in metres.

    Raises:
        StructureError: if there is no such structure, or none in metres.
    """

    def __init__(self, folder: Path, name: str, which: str, tolerance: int = 1_000_000) -> None:
        self.folder = folder if (folder / FILE).exists() else folder / name
        self.which, self._tolerance = which, tolerance
        images = sorted(
            (p for p in self.folder.glob('images/*') if p.suffix in ('.jpg', '.png')), key=natural
        )
        structure = read_structure(self.folder, len(images)) if images else None
        if structure is None:
            raise StructureError(
                f"no {FILE} in '{folder}' or in its '{name}': make it with python -m train "
                'prepare and structure'
            )
        self._times = _times(self.folder, len(images))
        self._size = _image_size(images[0])
        self._points: list[FramePoints | None] = []
        for index in range(len(structure)):
            points = structure.points(index)
            if which == 'held_out':
                points = points.only(points.held_out)
            self._points.append(points if points.metric and len(points.depth) else None)
        self.frames = sum(points is not None for points in self._points)
        if not self.frames:
            raise StructureError(
                f"'{self.folder}' has no points in metres: give odometry or --camera-height to "
                'python -m train structure'
            )

    @property
    def note(self) -> str:
        """What the true depth is, for a report."""
        share = {'held_out': 'a tenth of them, held out from training', 'all': 'all of them'}
        return (
            f'true depth is points of structure from motion, {share[self.which]}, in '
            f'{self.frames} frames: static things with texture, within some 80 m'
        )

    def depth(self, stamp: int, camera: Intrinsics) -> np.ndarray | None:
        """Depth map float32 (H, W) of the image of a stamp (ns), metres, NaN = unknown."""
        index = int(np.abs(self._times - stamp).argmin())
        points = self._points[index]
        if points is None or abs(int(self._times[index]) - stamp) > self._tolerance:
            return None
        size = np.array([camera.width, camera.height])
        xy = (points.xy + 0.5) * (size / self._size) - 0.5
        depth = replace(points, xy=xy).as_map((camera.height, camera.width))
        depth[depth == 0] = np.nan
        return depth


def _times(folder: Path, count: int) -> np.ndarray:
    """Stamps (N,) of a sequence's images, int64 ns."""
    path = folder / 'times.txt'
    try:
        seconds = np.loadtxt(path, ndmin=1)
    except (OSError, ValueError) as error:
        raise StructureError(f"cannot read '{path}': prepare the recording again") from error
    if seconds.shape != (count,):
        raise StructureError(f"'{path}' has not a row for each of {count} images")
    return np.rint(seconds * 1e9).astype(np.int64)


def _image_size(path: Path) -> np.ndarray:
    """Width and height (2,) of an image file."""
    try:
        return np.array(picture_size(path.read_bytes()))
    except (OSError, ImageError) as error:
        raise StructureError(f"image '{path}' is damaged: {error}") from error


def read_structure(folder: Path, frames: int | None = None) -> Structure | None:
    """The structure in a sequence folder; ``None`` if there is none.

    Raises:
        StructureError: if it is damaged, or of other images than the ``frames`` there are.
    """
    path = Path(folder) / FILE
    return Structure.read(path, frames) if path.exists() else None
