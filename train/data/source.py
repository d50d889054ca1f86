"""A drive of one camera as somebody published or recorded it, before it is a sequence folder."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from train.data.sequences import DataError, read_picture

REACH = 2
"""Frames on either side of a target that are kept, enough for samples of five."""

Read = Callable[[], np.ndarray]
Pictures = Callable[[Collection[int]], Iterator[tuple[int, Read]]]
Map = Callable[[int], 'np.ndarray | None']


@dataclass(frozen=True)
class Source:
    """One drive of one camera, to be written as a sequence.

    Attributes:
        name: Of the sequence folder.
        stems: Names of the N frames' files, in temporal order.
        size: Width and height of the pictures.
        intrinsics: (3, 3) in their pixels; NaN where unknown.
        pictures: Takes growing indices and yields each with a function that reads the picture,
            BGR (H, W, 3) uint8. That function may run in another thread, is called once, and
            raises `ValueError` for a damaged picture.
        times, poses, odometry, speeds: As in `train.data.sequences.Sequence`, or None.
        numbers: (N,) the frames' numbers in the recording, where `stems` are a selection of which
            not all successive frames are neighbours.
        targets: (N,) bool, which frames may be targets; None for all.
        depth: Metres (h, w) of a frame, 0 = unknown, or None where there is none. Called once a
            frame, after its picture was read.
        labels: Class ids (h, w) uint8 of a frame, likewise.
        depth_scale: Metres of one step of the depth files to be written.
        facts: What is worth knowing of it, by name, for the summary.
        warnings: What may spoil a training with it, likewise.
        inputs: Fingerprint of its files; '' where unknown.
    """

    name: str
    stems: list[str]
    size: tuple[int, int]
    intrinsics: np.ndarray
    pictures: Pictures
    times: np.ndarray | None = None
    poses: np.ndarray | None = None
    odometry: np.ndarray | None = None
    speeds: np.ndarray | None = None
    numbers: np.ndarray | None = None
    targets: np.ndarray | None = None
    depth: Map = lambda _: None
    labels: Map = lambda _: None
    depth_scale: float = 1e-3
    facts: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    inputs: str = ''

    def only(self, indices: np.ndarray) -> Source:
        """Return the source reduced to the frames with these growing indices."""

        def pictures(wanted: Collection[int]) -> Iterator[tuple[int, Read]]:
            for new, (_, read) in zip(
                wanted, self.pictures([int(indices[i]) for i in wanted]), strict=True
            ):
                yield new, read

        tables = {
            name: None if getattr(self, name) is None else getattr(self, name)[indices]
            for name in ('times', 'poses', 'odometry', 'speeds', 'numbers', 'targets')
        }
        return replace(
            self,
            stems=[self.stems[i] for i in indices],
            pictures=pictures,
            depth=lambda i: self.depth(int(indices[i])),
            labels=lambda i: self.labels(int(indices[i])),
            **tables,
        )

    def at_most(self, rate: float) -> Source:
        """Return the source reduced to at most `rate` frames a second.

        Raises:
            DataError: The times of its frames are unknown.
        """
        if self.times is None:
            raise DataError(f"--rate needs times, and '{self.name}' has no times.txt")
        kept, following = [], self.times[0]
        for index, time in enumerate(self.times):
            if time >= following - 0.05 / rate:
                kept.append(index)
                # On a steady beat; a pause starts a new one.
                following = (following if time < following + 0.5 / rate else time) + 1 / rate
        thin = self.only(np.array(kept))
        if self.numbers is None:
            return thin
        # Of the gaps in the numbers only those that were there before.
        gaps = self.numbers - np.arange(len(self.stems))
        return replace(thin, numbers=np.arange(len(kept)) + gaps[kept])


def files(paths: list[Path], upright: bool = False) -> Pictures:
    """Return the pictures that lie in one file each, see `read_picture`."""
    return lambda wanted: (
        (i, lambda path=paths[i]: read_picture(path, upright=upright)) for i in wanted
    )
