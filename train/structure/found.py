"""A reconstruction by COLMAP, as plain arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from train.data.sequences import Sequence

if TYPE_CHECKING:
    import pycolmap

HALF = 0.5  # pixels; COLMAP's first pixel has its centre at 0.5, ours at 0


@dataclass(frozen=True)
class Lens:
    """A pinhole camera with radial distortion.

    Attributes:
        matrix: (3, 3) in pixels of the images; pixel centres are at integer coordinates.
        distortion: (4,) OpenCV's k1 k2 p1 p2; zero for rectified images.
        estimated: whether the reconstruction estimated it.
    """

    matrix: np.ndarray
    distortion: np.ndarray
    estimated: bool

    def rays(self, xy: np.ndarray) -> np.ndarray:
        """Rays (n, 3) of pixels (n, 2), in the optical frame, with z = 1."""
        if not len(xy):
            return np.zeros((0, 3))
        where = cv2.undistortPoints(
            xy.astype(np.float64).reshape(-1, 1, 2), self.matrix, self.distortion
        )
        return np.column_stack([where.reshape(-1, 2), np.ones(len(xy))])


@dataclass(frozen=True)
class Reconstruction:
    """A reconstruction of N frames: M observations of P points, sorted by frame.

    Attributes:
        part: (N,) int, connected part of the drive that a frame belongs to; -1: not registered.
        poses: (N, 4, 4) camera-to-world, in the part's world and unit; NaN: not registered.
        lens: lens of the camera, the same for all frames.
        frame: (M,) int, frame of an observation.
        point: (M,) int, point of an observation, 0 .. P - 1.
        xy: (M, 2) float32, pixel at which the frame sees the point.
        depth: (M,) float32, depth of the point along the optical axis, in the part's unit.
        error: (M,) float32, reprojection error, pixels.
        track: (P,) int, number of frames that see a point.
        angle: (P,) float32, widest angle between the rays to a point, degrees.
        world: (P, 3) float32, position of a point in its part's world.
        doubt: what is doubtful about the intrinsics; '' if nothing is.
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
        """Number of parts."""
        return int(self.part.max(initial=-1)) + 1


def collect(
    models: list[pycolmap.Reconstruction], sequence: Sequence, estimated: bool, min_part: int
) -> Reconstruction | None:
    """Join COLMAP's models, each of which becomes a part, in one reconstruction.

    Args:
        models: models of the sequence, the largest first.
        sequence: the sequence.
        estimated: whether COLMAP estimated the lens.
        min_part: smallest number of frames of a part.

    Returns:
        The reconstruction; ``None`` if no model is large enough.
    """
    count = len(sequence.images)
    index = {path.name: i for i, path in enumerate(sequence.images)}
    part, poses = np.full(count, -1), np.full((count, 4, 4), np.nan)
    rows: list[tuple[np.ndarray, ...]] = []
    tracks: list[int] = []
    angles: list[float] = []
    world: list[np.ndarray] = []
    lens: Lens | None = None
    for model in models:
        images = {
            index[image.name]: image
            for image in model.images.values()
            if image.has_pose and part[index[image.name]] < 0
        }
        points = dict(model.points3D.items())
        if len(images) < min_part or not points:
            continue
        lens = lens or _lens(next(iter(model.cameras.values())), estimated)
        part[list(images)] = part.max() + 1
        for frame, image in images.items():
            poses[frame] = np.linalg.inv(_square(image.cam_from_world().matrix()))
        keys = np.array(sorted(points))
        places = np.array([points[key].xyz for key in keys])
        rows += [
            row
            for frame, image in images.items()
            if len((row := _observations(model, image, frame, keys, places, len(tracks)))[0])
        ]
        centres = {image.image_id: poses[frame, :3, 3] for frame, image in images.items()}
        for key, place in zip(keys, places, strict=True):
            seen = {element.image_id for element in points[key].track.elements}
            tracks.append(len(seen))
            eyes = np.array([centres[i] for i in seen if i in centres]).reshape(-1, 3)
            angles.append(_widest_angle(place, eyes))
        world.append(places)
    if lens is None or not rows:
        return None
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
        np.concatenate(world).astype(np.float32),
    )


def _observations(
    model: pycolmap.Reconstruction,
    image: pycolmap.Image,
    frame: int,
    keys: np.ndarray,
    places: np.ndarray,
    first: int,
) -> tuple[np.ndarray, ...]:
    """List the points that an image sees.

    Args:
        model: the model that the image belongs to.
        image: the image, which has a pose.
        frame: number of the image's frame.
        keys: (P,) COLMAP's ids of the model's points, ascending.
        places: (P, 3) positions of these points in the model's world.
        first: our number of the first of these points.

    Returns:
        Frame (n,), point (n,), pixel (n, 2), depth (n,) and reprojection error (n,), pixels.
    """
    seen = [(p.xy, p.point3D_id) for p in image.points2D if p.has_point3D()]
    xy = np.array([place for place, _ in seen]).reshape(-1, 2)
    number = np.searchsorted(keys, np.array([key for _, key in seen], keys.dtype))
    matrix = image.cam_from_world().matrix()
    local = places[number] @ matrix[:, :3].T + matrix[:, 3]
    front = local[:, 2] > 0
    projected = np.full_like(xy, np.nan)
    if front.any():
        projected[front] = np.asarray(model.cameras[image.camera_id].img_from_cam(local[front]))
    error = np.linalg.norm(projected - xy, axis=1)
    keep = front & np.isfinite(error)
    return (
        np.full(keep.sum(), frame),
        number[keep] + first,
        xy[keep] - HALF,
        local[keep, 2],
        error[keep],
    )


def _square(matrix: np.ndarray) -> np.ndarray:
    """Extend a pose (3, 4) to (4, 4)."""
    return np.vstack([matrix, [0.0, 0.0, 0.0, 1.0]])


def _widest_angle(point: np.ndarray, eyes: np.ndarray) -> float:
    """Widest angle, degrees, between rays to a point (3,) from positions ``eyes`` (n, 3)."""
    rays = point - eyes
    rays /= np.linalg.norm(rays, axis=1, keepdims=True) + 1e-12
    cosine = float((rays @ rays.T).min(initial=1.0))
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def _lens(camera: pycolmap.Camera, estimated: bool) -> Lens:
    """Convert COLMAP's camera to OpenCV's convention."""
    matrix = np.array(camera.calibration_matrix())
    matrix[:2, 2] -= HALF
    distortion = np.zeros(4)
    if camera.model.name == 'SIMPLE_RADIAL':
        distortion[0] = camera.params[3]
    return Lens(matrix, distortion, estimated)
