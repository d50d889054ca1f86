"""A drive of one camera, as it was published or recorded, before it becomes a sequence folder."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from train.data.sequences import DataError, read_picture

REACH = 2
"""Number of frames to keep on either side of a target; enough for samples of five frames."""

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
            BGR (H, W, 3) uint8. That function is called once, perhaps in another thread, and
            raises `ValueError` for a damaged picture.
        times, poses, odometry, speeds: As in `train.data.sequences.Sequence`, or None.
        numbers: (N,) numbers of the frames; only frames with successive numbers are neighbours.
            None: all successive frames are.
        targets: (N,) bool, which frames may be targets; None for all.
        depth: Returns the depth of a frame, (h, w) in metres, 0 = unknown, or None if it has none.
            Called once for each frame, after its picture was read.
        labels: Returns the labels of a frame, class ids (h, w) uint8, or None; called likewise.
        depth_scale: Metres per step of the depth files to be written.
        facts: Facts for the summary page, by name.
        warnings: Warnings of what may spoil a training with it.
        inputs: Fingerprint of its files; '' if unknown.
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
            DataError: if the times of its frames are unknown.
        """
        if self.times is None:
            raise DataError(f"--rate needs times, and '{self.name}' has no times.txt")
        kept, following = [], self.times[0]
        for index, time in enumerate(self.times):
            if time >= following - 0.05 / rate:
                kept.append(index)
                # Times to keep are evenly spaced; after a pause they start anew.
                following = (following if time < following + 0.5 / rate else time) + 1 / rate
        thin = self.only(np.array(kept))
        if self.numbers is None:
            return thin
        # Kept frames are neighbours, except where the source itself has a gap.
        gaps = self.numbers - np.arange(len(self.stems))
        return replace(thin, numbers=np.arange(len(kept)) + gaps[kept])


def files(paths: list[Path], upright: bool = False) -> Pictures:
    """Return a `Source.pictures` that reads each picture from a file, see `read_picture`."""
    return lambda wanted: (
        (i, lambda path=paths[i]: read_picture(path, upright=upright)) for i in wanted
    )
