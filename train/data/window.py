"""Random windows: which part of an image a sample shows, and how it is resized to network size.

A window of random size, position and shape is what a camera of another focal length would have
seen. A network that is trained on such windows can serve many cameras. A window transforms images,
maps, points, motion and intrinsics alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch

from train.data.sequences import resize_image, resize_map

FILTERS = (cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)
NARROWEST = 1.25
"""Smallest ratio of width to height of a window with a shape of its own."""

MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Window:
    """A part of a stored image, as the network will see it.

    Attributes:
        x, y, width, height: rectangle of the part, in whole pixels of the stored image.
        out_width, out_height: network size.
        mirror: whether the window is mirrored left to right.
        filter: OpenCV's interpolation flag to resize images with; ``None``: as the nodes resize.
        inner: (width, height) to which images are resized on the way to network size, as a camera
            of lower resolution would give them; ``None``: not.
    """

    x: int
    y: int
    width: int
    height: int
    out_width: int
    out_height: int
    mirror: bool = False
    filter: int | None = None
    inner: tuple[int, int] | None = None

    @classmethod
    def whole(cls, size: tuple[int, int], out: tuple[int, int]) -> Window:
        """The whole image of ``size`` (width, height), resized to ``out`` as the nodes do."""
        return cls(0, 0, *size, *out)

    @classmethod
    def draw(
        cls,
        size: tuple[int, int],
        out: tuple[int, int],
        generator: torch.Generator,
        *,
        least: float = 1.0,
        flip: float = 0.0,
        filters: float = 0.0,
    ) -> Window:
        """Draw a random window of an image.

        Half of the windows have a random shape, from 5:4 to the wider of the image's and the
        network's. Otherwise the network could recognise a data set, and so its depths, by how much
        its images are squeezed. A quarter of the windows show the whole width, if their shape
        allows it.

        Args:
            size: (width, height) of the image.
            out: (width, height) of the network.
            generator: source of the random numbers.
            least: smallest share of the width that a window may have.
            flip: probability of a mirrored window.
            filters: probability of another filter than that of the nodes; a third of these windows
                also has an ``inner`` size.
        """
        u = torch.rand(9, generator=generator).tolist()
        share = least + (1 - least) * u[0] if u[1] < 0.75 else 1.0
        width, height = share * size[0], share * size[1]
        if u[2] < 0.5:
            widest = max(out[0] / out[1], size[0] / size[1])
            shape = widest ** u[3] * NARROWEST ** (1 - u[3])
            width, height = min(width, height * shape), min(height, width / shape)
        width, height = max(2, round(width)), max(2, round(height))
        how, inner = None, None
        if u[6] < filters:
            how = FILTERS[int(u[7] * len(FILTERS))]
            if u[8] < 1 / 3:
                inner_width, inner_height = (max(32, int(n * (0.5 + 1.5 * u[8]))) for n in out)
                inner = inner_width, inner_height
        return cls(
            round(u[4] * (size[0] - width)),
            round(u[5] * (size[1] - height)),
            width,
            height,
            *out,
            bool(torch.rand((), generator=generator) < flip),
            how,
            inner,
        )

    def image(self, image: np.ndarray) -> np.ndarray:
        """The window of an image (h, w, 3) uint8, at network size."""
        part = self._part(image)
        if self.filter is None:
            part = resize_image(part, self.out_width, self.out_height)
        else:
            if self.inner is not None:
                part = cv2.resize(part, self.inner, interpolation=cv2.INTER_AREA)
            part = cv2.resize(part, (self.out_width, self.out_height), interpolation=self.filter)
        return np.ascontiguousarray(part[:, ::-1]) if self.mirror else part

    def map(self, values: np.ndarray) -> np.ndarray:
        """The window of a map (h, w) of the image's size, at network size, by nearest neighbour."""
        part = resize_map(self._part(values), self.out_width, self.out_height)
        return np.ascontiguousarray(part[:, ::-1]) if self.mirror else part

    def _part(self, values: np.ndarray) -> np.ndarray:
        return values[self.y : self.y + self.height, self.x : self.x + self.width]

    @property
    def factors(self) -> tuple[float, float]:
        """Network pixels per stored pixel, in x and y."""
        return self.out_width / self.width, self.out_height / self.height

    def points(self, points: np.ndarray) -> np.ndarray:
        """Draw the points in the window into a depth map.

        Args:
            points: (N, 3) u and v, pixels of the stored image, and depth.

        Returns:
            float32 (out_height, out_width): depth of the nearest point in each pixel, 0 where there
            is none.
        """
        x, y = self.factors
        u = np.floor((points[:, 0] - self.x + 0.5) * x).astype(int)
        v = np.floor((points[:, 1] - self.y + 0.5) * y).astype(int)
        inside = (u >= 0) & (v >= 0) & (u < self.out_width) & (v < self.out_height)
        u, v, depth = u[inside], v[inside], points[inside, 2]
        if self.mirror:
            u = self.out_width - 1 - u
        order = np.argsort(-depth)
        found = np.zeros((self.out_height, self.out_width), np.float32)
        found[v[order], u[order]] = depth[order]
        return found

    def intrinsics(self, matrix: np.ndarray) -> np.ndarray:
        """Convert intrinsics (3, 3) of the stored image to the window's, float32 (3, 3)."""
        x, y = self.factors
        out = np.array(matrix, float)
        out[:2, 2] -= self.x, self.y
        out[0] *= x
        out[1] *= y
        out[:2, 2] += 0.5 * (x - 1), 0.5 * (y - 1)
        if self.mirror:
            out[0, 2] = self.out_width - 1 - out[0, 2]
        return out.astype(np.float32)

    def motion(self, transform: np.ndarray) -> np.ndarray:
        """Convert rigid transforms (..., 4, 4) between frames: mirrored if the window is."""
        return MIRROR @ transform @ MIRROR if self.mirror else transform
