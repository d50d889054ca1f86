"""Which camera_info belongs to an image: one rule for nodes, evaluation and training."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

from depth_ros.core.camera import CameraError, intrinsics_from_info

Info = TypeVar('Info')

KEPT = 64
"""Messages of which one may still belong to an image."""


class _Entry(NamedTuple, Generic[Info]):
    """A camera_info with its number, its stamp in ns and its frame."""

    number: int
    stamp: int
    frame_id: str
    info: Info


class CameraInfos(Generic[Info]):
    """The newest camera_info messages of a topic, in the order in which they came.

    To an image belongs the message of its stamp; else the latest one before it; else the first one
    after it. But those that cannot be used (no focal length, no size, another view) and those of
    another frame_id are taken only where there is no other: so drivers may send zeros until they
    have read their calibration, and two cameras may share a topic.

    Args:
        kept: How many to hold; older ones are forgotten.

    Attributes:
        count: How many have come.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self.count = 0
        self._entries: deque[_Entry[Info]] = deque(maxlen=kept)

    def __bool__(self) -> bool:
        return bool(self._entries)

    def add(self, info: Info, stamp: int, frame_id: str = '') -> None:
        """Take the next message, with its stamp in ns and its frame."""
        self._entries.append(_Entry(self.count, stamp, frame_id, info))
        self.count += 1

    def clear(self) -> None:
        """Forget all."""
        self._entries.clear()

    def has(self, stamp: int) -> bool:
        """Tell whether a message of this stamp, in ns, is there."""
        return any(entry.stamp == stamp for entry in tuple(self._entries))

    def of(
        self,
        stamp: int,
        frame_id: str = '',
        size: tuple[int, int] | None = None,
        seen: int | None = None,
    ) -> Info | None:
        """Return the message that belongs to an image; None if there is none at all.

        Args:
            stamp: Of the image, ns.
            frame_id: Of the image; '' if it has none.
            size: Width and height of the image, where they are known.
            seen: What `count` was when the image came; None: it came last.
        """
        best: tuple[int, Info] | None = None
        for entry in self._by_closeness(stamp, seen):
            foreign = bool(frame_id and entry.frame_id and entry.frame_id != frame_id)
            flaws = 2 * foreign + (not is_usable(entry.info, size))
            if not flaws:
                return entry.info
            if best is None or flaws < best[0]:
                best = flaws, entry.info
        return None if best is None else best[1]

    def _by_closeness(self, stamp: int, seen: int | None) -> Iterator[_Entry[Info]]:
        entries = tuple(self._entries)
        seen = self.count if seen is None else seen
        yield from (e for e in reversed(entries) if e.stamp == stamp)
        yield from (e for e in reversed(entries) if e.number < seen and e.stamp != stamp)
        yield from (e for e in entries if e.number >= seen and e.stamp != stamp)


def is_usable(info: object, size: tuple[int, int] | None = None) -> bool:
    """Tell whether a camera_info can be that of an image of a size, by default of its own."""
    width, height = size or (getattr(info, 'width', 0) or 1, getattr(info, 'height', 0) or 1)
    roi = getattr(info, 'roi', None)
    if size is None and roi is not None and roi.width and roi.height:
        width, height = roi.width, roi.height
    try:
        intrinsics_from_info(info, width, height)
    except CameraError:
        return False
    return True
