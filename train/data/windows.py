"""Training samples with known depth, points and motion, seen through random windows of the images.

A sample may also repeat one image (a standing camera) or run backwards in time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch

from depth_ros.core.labels import UNLABELED
from depth_ros.evaluation.structure import FramePoints, Structure
from train.data.augment import Augmentation
from train.data.dataset import FrameDataset
from train.data.sequences import (
    MAPS,
    DataError,
    Sequence,
    read_map,
    read_picture,
    resize_map,
    stored_size,
)
from train.data.window import Window

LARGEST_SIGMA = 0.25
"""Points with a larger relative standard deviation of depth are not used."""

USES = ('images', 'points', 'depth', 'motion', 'semantics')
"""What a data set can be used for."""


def sure_points(structure: Structure, index: int) -> FramePoints:
    """Points of a frame whose depth is precise enough to train on and to judge by."""
    points = structure.points(index)
    return points.only(points.sigma <= LARGEST_SIGMA)


class WindowDataset(FrameDataset):
    """:class:`FrameDataset` with known points and motion, seen through random windows.

    Items also have:
        points: float32 (H, W), depth of a reconstruction's points, 0 where there is none.
        relative: bool, whether the unit of these depths is unknown; otherwise it is metres.
        motion: float32 (views - 1, 4, 4) T_source_target, metres, of each other frame in the order
            of the images; NaN where unknown.
        watched: bool, whether view synthesis uses the images; it never uses still samples.

    Motion is from the reconstruction if the sequence has one (unknown where that is not metric),
    else from ``poses.txt``. In a still sample all frames are the target, and every motion is the
    identity.

    Args:
        root, width, height, views, max_gap, exclude: as for :class:`FrameDataset`.
        augment: as for :class:`FrameDataset`, with a ``scale`` of 1.
        use: which of :data:`USES` to train on; everything else counts as unknown.
        crop: smallest share of an image's width that a window shows.
        filters: probability that images are resized by another filter than the nodes use.
        still: probability of a still sample.
        backward: probability that the frames are in reversed order.
        singles: whether the images are single ones, not a video; every sample is then still.
        judge: whether to return the held-out points instead of the others.
        span: start and end of the part of each sequence to take, as shares of its length.

    Raises:
        DataError: if there is no sample, or a sequence is incomplete.
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        root: str | Path,
        width: int,
        height: int,
        *,
        views: int = 2,
        max_gap: int = 1,
        augment: Augmentation | None = None,
        exclude: Collection[Path] = (),
        use: Collection[str] = USES,
        crop: float = 1.0,
        filters: float = 0.0,
        still: float = 0.0,
        backward: float = 0.0,
        singles: bool = False,
        judge: bool = False,
        span: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        if not set(use) <= set(USES):
            raise ValueError(f'use {sorted(use)}: must be some of {", ".join(USES)}')
        if augment is not None and augment.scale != 1:
            raise ValueError('scale must be 1: windows are scaled by crop')
        self._singles, self._span = singles, span
        super().__init__(
            root, width, height, views=views, max_gap=max_gap, augment=augment, exclude=exclude
        )
        self.use, self.crop, self.filters, self.judge = frozenset(use), crop, filters, judge
        self.still, self.backward = (1.0, 0.0) if singles else (still, backward)
        self._structures = {
            number: found
            for number, sequence in enumerate(self.sequences)
            if (found := sequence.structure()) is not None
        }
        self._sizes: dict[int, tuple[int, int]] = {}

    def _samples(self, sequence: Sequence, max_gap: int) -> Iterator[list[np.ndarray]]:
        first, last = (share * len(sequence.images) for share in self._span)
        if self._singles:
            for i, path in enumerate(sequence.images):
                if first <= i < last and path not in self._exclude:
                    yield [np.full(len(self._offsets), i)]
            return
        for samples in super()._samples(sequence, max_gap):
            inside = [s for s in samples if first <= s.min() and s.max() < last]
            if inside:
                yield inside

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, torch.Tensor]:
        index, seed = key if isinstance(key, tuple) else (key, 0)
        generator = torch.Generator().manual_seed(seed)
        number, samples = self._items[index]
        sequence = self.sequences[number]
        frames = samples[int(torch.randint(len(samples), (), generator=generator))]
        u = torch.rand(2, generator=generator).tolist()
        if u[0] < self.backward:
            frames = frames[::-1]
        middle = len(frames) // 2
        target = int(frames[middle])
        still = u[1] < self.still
        if still:
            frames = np.full_like(frames, target)
        size = self._size(number)
        window = self._window(size, generator)
        images = self._images(sequence, frames, window)
        structure = self._structures.get(number)
        return {
            **self._look(images, generator),
            'intrinsics': torch.from_numpy(window.intrinsics(sequence.intrinsics)),
            'labels': torch.from_numpy(
                self._seen(sequence.semantics_path(target), 'semantics', window, size).astype(
                    np.int64
                )
            ),
            'depth': torch.from_numpy(
                self._seen(sequence.depth_path(target), 'depth', window, size)
                * np.float32(sequence.depth_scale)
            ),
            'points': torch.from_numpy(self._points(structure, target, window)),
            'relative': torch.tensor(structure is not None and not structure.is_metric(target)),
            'motion': self._motion(sequence, structure, np.delete(frames, middle), target, window),
            'watched': torch.tensor(
                bool('images' in self.use and not still and np.isfinite(sequence.intrinsics).all())
            ),
            'distance': torch.tensor(
                [sequence.distance(target, int(i)) for i in np.delete(frames, middle)],
                dtype=torch.float32,
            ),
        }

    def _size(self, number: int) -> tuple[int, int]:
        """Width and height of a sequence's images as stored."""
        if number not in self._sizes:
            size = stored_size(self.sequences[number])
            if size is None:
                raise DataError(f"'{self.sequences[number].folder}' has no image that can be read")
            self._sizes[number] = size
        return self._sizes[number]

    def _window(self, size: tuple[int, int], generator: torch.Generator) -> Window:
        out = self.width, self.height
        if self.augment is None:
            return Window.whole(size, out)
        return Window.draw(
            size, out, generator, least=self.crop, flip=self.augment.flip, filters=self.filters
        )

    @staticmethod
    def _images(sequence: Sequence, frames: np.ndarray, window: Window) -> list[np.ndarray]:
        read: dict[int, np.ndarray] = {}
        for i in map(int, frames):
            if i not in read:
                image = cv2.cvtColor(read_picture(sequence.images[i]), cv2.COLOR_BGR2RGB)
                read[i] = window.image(image)
        return [read[int(i)] for i in frames]

    def _look(
        self, images: list[np.ndarray], generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        stack = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
        inputs = images if self.augment is None else self.augment.look(images, generator)
        if inputs is images:
            return {'images': stack, 'inputs': stack}
        changed = torch.from_numpy(np.stack(inputs)).permute(0, 3, 1, 2).contiguous()
        return {'images': stack, 'inputs': changed}

    def _seen(self, path: Path, kind: str, window: Window, size: tuple[int, int]) -> np.ndarray:
        """The window of a map, at network size; all unknown if it is missing or not used."""
        if kind not in self.use or path in self._exclude or not path.exists():
            missing = UNLABELED if kind == 'semantics' else 0
            return np.full((self.height, self.width), missing, MAPS[kind])
        values = read_map(path, dtype=MAPS[kind])
        if values.shape != size[::-1]:
            values = resize_map(values, *size)
        return window.map(values)

    def _points(self, structure: Structure | None, target: int, window: Window) -> np.ndarray:
        if structure is None or 'points' not in self.use:
            return np.zeros((self.height, self.width), np.float32)
        points = sure_points(structure, target)
        chosen = points.only(points.held_out == self.judge)
        return window.points(np.column_stack([chosen.xy, chosen.depth]))

    def _motion(
        self,
        sequence: Sequence,
        structure: Structure | None,
        sources: np.ndarray,
        target: int,
        window: Window,
    ) -> torch.Tensor:
        """T_source_target (S, 4, 4) of the source frames, NaN where unknown."""
        found = np.full((len(sources), 4, 4), np.nan)
        for motion, source in zip(found, map(int, sources), strict=True):
            if source == target:
                motion[:] = np.eye(4)
            elif 'motion' not in self.use:
                continue
            elif structure is not None:
                known = structure.motion(target, source) if structure.is_metric(source) else None
                motion[:] = np.nan if known is None else known
            elif sequence.poses is not None:
                motion[:] = np.linalg.inv(sequence.poses[source]) @ sequence.poses[target]
        return torch.from_numpy(window.motion(found)).float()
