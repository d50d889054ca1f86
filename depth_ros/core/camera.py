"""Pinhole cameras: intrinsics, projection, and fitting a camera image to a network.

Pixel (u, v) is the centre of column u and row v, so an image spans -0.5 .. width - 0.5. Resizing
by s therefore maps u to (u + 0.5) s - 0.5, which is what image resampling does. The camera's
optical frame is REP 103's: z forward, x right, y down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

ASPECT_TOLERANCE = 0.01
"""Relative difference of aspect ratio up to which two image sizes count as the same view;
sizes that were rounded to whole pixels differ by less."""

USUAL_VIEW, LEAST_VIEW = (15.0, 150.0), 5.0
"""Degrees that the wider side of a rectified camera sees: usual, and at least."""

USUAL_ASPECT, MOST_ASPECT = 1.1, 3.0
"""Ratio of fx and fy, or its inverse: usual, and at most."""

USUAL_OFFSET = 0.25
"""Distance of the principal point from the centre, as a share of width or height."""

FIT_MODES = ('auto', 'stretch', 'crop')

MOST_STRETCH = 2.0
"""Distortion of the pixels' aspect (`ImageFit.anisotropy`) up to which `auto` stretches: before a
network of 640x192, 16:9 is stretched and 3:2 is not. docs/results.md has what it was chosen by."""


class CameraError(ValueError):
    """Camera calibration that cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Intrinsics:
    """A pinhole camera.

    Attributes:
        fx, fy: focal lengths in pixels.
        cx, cy: principal point in pixels.
        width, height: image size in pixels.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int

    @property
    def matrix(self) -> np.ndarray:
        """The intrinsic matrix, float64 [3, 3]: fx 0 cx / 0 fy cy / 0 0 1."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    @property
    def field_of_view(self) -> tuple[float, float]:
        """Degrees from the left edge to the right one, and from the upper to the lower."""
        return (
            _view_angle(self.fx, self.cx, self.width),
            _view_angle(self.fy, self.cy, self.height),
        )

    @classmethod
    def from_matrix(cls, matrix: np.ndarray, width: int, height: int) -> Intrinsics:
        """The camera of an intrinsic matrix [3, 3] and an image size in pixels."""
        (fx, _, cx), (_, fy, cy) = matrix[:2].tolist()
        return cls(fx, fy, cx, cy, width, height)

    def resized(self, width: int, height: int) -> Intrinsics:
        """The same camera with its image resized to ``width`` x ``height`` pixels."""
        matrix = scale_intrinsics(self.matrix, width / self.width, height / self.height)
        return Intrinsics.from_matrix(matrix, width, height)

    def cropped(self, x: int, y: int, width: int, height: int) -> Intrinsics:
        """The same camera with its image cut to a region whose top left pixel is (x, y)."""
        return Intrinsics(self.fx, self.fy, self.cx - x, self.cy - y, width, height)

    def rays(self, stride: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Viewing rays of every ``stride``-th pixel: x/z of each column, y/z of each row.

        A pixel with depth z (along the optical axis) is the point (z x_ray[u], z y_ray[v], z).

        Returns:
            float32 [ceil(width / stride)] and float32 [ceil(height / stride)].
        """
        u = np.arange(0, self.width, stride)
        v = np.arange(0, self.height, stride)
        return (
            ((u - self.cx) / self.fx).astype(np.float32),
            ((v - self.cy) / self.fy).astype(np.float32),
        )


def _view_angle(focal: float, center: float, size: int) -> float:
    """Degrees between the two edges of an image of ``size`` pixels."""
    edges = math.atan((center + 0.5) / focal), math.atan((size - 0.5 - center) / focal)
    return math.degrees(sum(edges))


def scale_intrinsics(matrix: np.ndarray, x: float, y: float) -> np.ndarray:
    """Intrinsic matrix of an image whose width and height were multiplied by ``x`` and ``y``.

    Args:
        matrix: [3, 3], fx 0 cx / 0 fy cy / 0 0 1, pixels.
        x, y: scale of the width and of the height.

    Returns:
        float64 [3, 3].
    """
    scaled = np.diag([x, y, 1.0]) @ matrix
    # A pixel's centre is a whole number, so the image's outer edges are half a pixel outside.
    scaled[0, 2] += 0.5 * (x - 1)
    scaled[1, 2] += 0.5 * (y - 1)
    return scaled


def project(
    points: np.ndarray, projection: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels of points.

    Args:
        points: [N, 3], in any frame.
        projection: [3, 4], K [R | t] from that frame to the camera's homogeneous pixels.

    Returns:
        u, v and depth along the optical axis, float64 [N] each. Where the depth is not positive
        the point is not in front of the camera, and its u and v mean nothing.
    """
    x, y, z = projection[:, :3] @ np.asarray(points, np.float64).T + projection[:, 3:]
    with np.errstate(divide='ignore', invalid='ignore'):
        return x / z, y / z, z


def reproject(
    depth: np.ndarray, camera: Intrinsics, other_this: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where another camera of the same intrinsics sees the points of all pixels of a depth image.

    It is K (R K^-1 p depth + t), for all pixels p at once and without dividing by the depth.

    Args:
        depth: float32 [H, W] of this camera; NaN = invalid.
        camera: intrinsics of both at this size.
        other_this: T_other_this 4x4, in the unit of the depth.

    Returns:
        u z, v z and z in the other camera, float32 [H, W] each; NaN where the depth is.
    """
    k = camera.matrix
    far = k @ other_this[:3, :3] @ np.linalg.inv(k)
    near = k @ other_this[:3, 3]
    u, v = np.arange(camera.width), np.arange(camera.height)[:, None]
    x, y, z = (
        depth * ((a * u).astype(np.float32) + (b * v + c).astype(np.float32)) + np.float32(d)
        for (a, b, c), d in zip(far, near, strict=True)
    )
    return x, y, z


def check_intrinsics(camera: Intrinsics, *, square: bool = True) -> list[str]:
    """Look whether intrinsics can be those of their images.

    Args:
        camera: of the whole image, not of a region cut from it.
        square: whether its pixels should be about square, as they are before anybody stretches the
            images to another aspect ratio.

    Returns:
        What is odd about them.

    Raises:
        CameraError: if they are impossible; the message says why and what they may be.
    """
    fx, fy, cx, cy = camera.fx, camera.fy, camera.cx, camera.cy
    what = (
        f'intrinsics fx={fx:g}, fy={fy:g}, cx={cx:g}, cy={cy:g} for images of '
        f'{camera.width}x{camera.height}'
    )
    if not all(math.isfinite(v) for v in (fx, fy, cx, cy)) or fx <= 0 or fy <= 0:
        raise CameraError(f'{what}: focal lengths must be positive; calibrate the camera')
    if max(cx, cy) <= 1 < min(camera.width, camera.height):
        raise CameraError(
            f'{what} look as if they were divided by the size of the image: give pixels '
            f'(fx={fx * camera.width:g}, fy={fy * camera.height:g}, ...)'
        )
    if not (-0.5 <= cx < camera.width - 0.5 and -0.5 <= cy < camera.height - 0.5):
        swapped = cx > 0 and cy > 0 and fx < camera.width and fy < camera.height
        raise CameraError(
            f'{what}: the principal point is outside of the image; '
            + ('are focal lengths and principal point swapped, or ' if swapped else '')
            + 'are these of another resolution? Give those of the images at this size'
        )
    view = camera.field_of_view
    if not LEAST_VIEW <= max(view) <= USUAL_VIEW[1]:
        raise CameraError(
            f'{what}: a field of view of {view[0]:.0f} by {view[1]:.0f} degrees is none of a '
            'rectified camera; are these of another resolution? Give those of the images at this '
            'size'
        )
    if square and not 1 / MOST_ASPECT <= fx / fy <= MOST_ASPECT:
        raise CameraError(
            f'{what}: pixels {fx / fy:.2g} times as high as wide; give the focal lengths in pixels '
            'of the images at this size'
        )
    odd = []
    if max(view) < USUAL_VIEW[0]:
        odd.append(f'the field of view is only {view[0]:.0f} by {view[1]:.0f} degrees')
    if square and not 1 / USUAL_ASPECT <= fx / fy <= USUAL_ASPECT:
        odd.append(f'the pixels are {fx / fy:.2f} times as high as wide, and most are square')
    off = abs((cx + 0.5) / camera.width - 0.5), abs((cy + 0.5) / camera.height - 0.5)
    if max(off) > USUAL_OFFSET:
        odd.append('the principal point is far from the centre: are they of another resolution?')
    return [f'{what}: {text}' for text in odd]


def calibration(info) -> Intrinsics:
    """Intrinsics that a camera_info holds, of the whole image at the size of its calibration.

    The left 3x3 of P, which describes the rectified image, is used, or K where P is empty.

    Args:
        info: a sensor_msgs/CameraInfo message.

    Raises:
        CameraError: if the calibration is missing or impossible.
    """
    p, k = info.p, info.k
    if p[0] > 0 and p[5] > 0:
        fx, fy, cx, cy = p[0], p[5], p[2], p[6]
    else:
        fx, fy, cx, cy = k[0], k[4], k[2], k[5]
    if not all(math.isfinite(v) for v in (fx, fy, cx, cy)) or fx <= 0 or fy <= 0:
        raise CameraError(
            f'camera_info holds no usable intrinsics (fx={fx:g}, fy={fy:g}, cx={cx:g}, cy={cy:g} '
            'in K and P); calibrate the camera or give its driver the calibration file'
        )
    if info.width <= 0 or info.height <= 0:
        raise CameraError(
            f'camera_info says that the image is {info.width}x{info.height}; '
            'give the camera driver a calibration file with the image size'
        )
    camera = Intrinsics(fx, fy, cx, cy, info.width, info.height)
    try:
        check_intrinsics(camera)
    except CameraError as error:
        raise CameraError(f'camera_info holds {error}') from error
    return camera


def intrinsics_from_info(info, width: int, height: int) -> Intrinsics:
    """Intrinsics of a rectified image from its camera_info.

    REP 104's region of interest and binning are applied to the :func:`calibration`, and one made
    at another resolution of the same aspect ratio is resized.

    Args:
        info: a sensor_msgs/CameraInfo message.
        width, height: size of the image in pixels.

    Returns:
        Intrinsics at the size of the image.

    Raises:
        CameraError: if the calibration is missing, impossible, or of another aspect ratio.
    """
    camera = calibration(info)
    roi = info.roi
    if roi.width > 0 and roi.height > 0:
        camera = camera.cropped(roi.x_offset, roi.y_offset, roi.width, roi.height)
    if width <= 0 or height <= 0:
        raise CameraError(f'the image is {width}x{height} pixels, which is empty')
    # Some drivers leave binning at its default although they bin; the size tells.
    if abs(width * camera.height / (height * camera.width) - 1) > ASPECT_TOLERANCE:
        raise CameraError(
            f'camera_info is for {camera.width}x{camera.height} pixels, but the image is '
            f'{width}x{height}: not the same view; publish the camera_info that belongs to the '
            'image (check the camera_info remapping and the calibration file)'
        )
    return camera.resized(width, height)


@dataclass(frozen=True)
class ImageFit:
    """How a camera image and a network's image lie on each other.

    The network sees a region of the camera image, resized to its input size. ``stretch`` takes
    the whole image. ``crop`` keeps pixels square relative to the training camera: it takes the
    largest region with the network's aspect ratio, placed so that the principal point falls where
    it was in training, as far as the image allows. ``auto`` stretches where that distorts little,
    and else crops: a network judges depth by shapes, too, but a crop sees less.

    Attributes:
        camera: the camera image.
        network: the camera as the network sees it, at network size.
        model: the training camera at network size.
        x, y, width, height: the region of the camera image, in pixels.
    """

    camera: Intrinsics
    network: Intrinsics
    model: Intrinsics
    x: int
    y: int
    width: int
    height: int

    @classmethod
    def create(cls, camera: Intrinsics, model: Intrinsics, mode: str = 'stretch') -> ImageFit:
        """Fit a camera to the training camera of a model.

        Args:
            camera: intrinsics of the camera image.
            model: intrinsics of the training camera at network size.
            mode: one of FIT_MODES.

        Raises:
            ValueError: if ``mode`` is unknown.
        """
        if mode not in FIT_MODES:
            raise ValueError(f"fit '{mode}' is unknown; choose one of {', '.join(FIT_MODES)}")
        x, y, width, height = 0, 0, camera.width, camera.height
        whole = cls(camera, camera.resized(model.width, model.height), model, x, y, width, height)
        if mode == 'stretch' or mode == 'auto' and whole.anisotropy <= MOST_STRETCH:
            return whole
        # Pixel aspect of the model's camera, so that a crop looks as the training images did.
        aspect = (model.width / model.height) * (camera.fx / camera.fy) / (model.fx / model.fy)
        width = max(1, min(camera.width, round(camera.height * aspect)))
        height = max(1, min(camera.height, round(camera.width / aspect)))
        x = _place(camera.cx, camera.width, width, (model.cx + 0.5) / model.width)
        y = _place(camera.cy, camera.height, height, (model.cy + 0.5) / model.height)
        network = camera.cropped(x, y, width, height).resized(model.width, model.height)
        return cls(camera, network, model, x, y, width, height)

    @property
    def depth_factor(self) -> float:
        """Factor from the network's depth to this camera's.

        A network judges depth by the size of things in the image, and the size is proportional
        to focal length over depth. Seen with another focal length than in training, depth is off
        by the ratio: sqrt(fx_net / fx_model * fy_net / fy_model), both at network size.
        """
        return math.sqrt(self.network.fx / self.model.fx * self.network.fy / self.model.fy)

    @property
    def share(self) -> float:
        """Of the camera image that the network sees."""
        return self.width * self.height / (self.camera.width * self.camera.height)

    @property
    def anisotropy(self) -> float:
        """Distortion of the pixel aspect relative to training, >= 1; 1.1 is 10 %."""
        ratio = (self.network.fx / self.network.fy) / (self.model.fx / self.model.fy)
        return max(ratio, 1 / ratio)

    def to_network(self, image: np.ndarray, out: np.ndarray) -> None:
        """Resize the region of a camera image to the size of the images that the network takes.

        Args:
            image: uint8 [camera height, camera width, 3].
            out: uint8 [height, width, 3], of network size or larger, overwritten.
        """
        view = image[self.y : self.y + self.height, self.x : self.x + self.width]
        height, width = out.shape[:2]
        # Exact halvings average four pixels and are ten times faster than a general area
        # resize; the linear step that is left shrinks by less than two on one axis.
        while (
            view.shape[0] >= 2 * height
            and view.shape[1] >= 2 * width
            and view.shape[0] % 2 == 0
            and view.shape[1] % 2 == 0
        ):
            view = cv2.resize(
                view, (view.shape[1] // 2, view.shape[0] // 2), interpolation=cv2.INTER_AREA
            )
        cv2.resize(view, (width, height), dst=out, interpolation=cv2.INTER_LINEAR)

    def to_camera(self, image: np.ndarray, out: np.ndarray, nearest: bool = False) -> None:
        """Resize a network image back onto its region of the camera image.

        Args:
            image: [network height, network width, ...].
            out: [camera height, camera width, ...]; only the region is overwritten.
            nearest: take the nearest pixel, as class ids need, rather than interpolate.
        """
        region = out[self.y : self.y + self.height, self.x : self.x + self.width]
        if not nearest:
            cv2.resize(image, (self.width, self.height), dst=region, interpolation=cv2.INTER_LINEAR)
            return
        # Columns first, then whole rows, each the one that its centre falls on: OpenCV, going pixel
        # by pixel, takes three times as long.
        wide = cv2.resize(image, (self.width, len(image)), interpolation=cv2.INTER_NEAREST_EXACT)
        rows = (2 * np.arange(self.height) + 1) * len(image) // (2 * self.height)
        np.take(wide, rows, axis=0, out=region, mode='clip')


def shown_part(
    camera: Intrinsics, view: Intrinsics, width: int, height: int
) -> tuple[slice, slice]:
    """Rows and columns of a map of a camera's image that a view shows, such as a crop of it.

    Args:
        camera: of the whole image.
        view: of the part, at any size.
        width, height: size of the map of the whole image in pixels.
    """
    sizes = (camera.height, view.height, height), (camera.width, view.width, width)
    centers = (camera.cy, view.cy), (camera.cx, view.cx)
    factors = camera.fy / view.fy, camera.fx / view.fx  # pixels of the camera to one of the view
    parts = []
    for (whole, shown, pixels), (center, seen), factor in zip(sizes, centers, factors, strict=True):
        start = center + 0.5 - (seen + 0.5) * factor
        first, last = (round(v * pixels / whole) for v in (start, start + shown * factor))
        parts.append(slice(max(first, 0), min(last, pixels)))
    return parts[0], parts[1]


def _place(center: float, size: int, length: int, fraction: float) -> int:
    """Start of a crop of ``length`` in 0..size with ``center`` at ``fraction`` of the crop."""
    return min(max(round(center + 0.5 - fraction * length), 0), size - length)
