"""Points of structure from motion as ground truth, for owners without lidar."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from depth_ros.evaluation.structure import Structure

HELD_OUT, ALL = 'held_out', 'all'
POINTS = (HELD_OUT, ALL)
TOLD = {HELD_OUT: 'a tenth of them, held out from training', ALL: 'all of them'}


def point_truth(
    structure: Structure | None, index: int, which: str, size: tuple[int, int] | None
) -> Callable[[], np.ndarray] | None:
    """Reads the sparse depth map, float32 (H, W), 0 = unknown, of a frame's points.

    Args:
        structure: of the sequence, if it has any.
        index: of the frame.
        which: 'held_out', the tenth that no training has seen; or 'all', for sequences that none
            has.
        size: width and height of the images as stored.

    Returns:
        ``None`` where the frame has no such points.
    """
    if structure is None or size is None:
        return None
    points = structure.points(index)
    if which == HELD_OUT:
        points = points.only(points.held_out)
    width, height = size
    return partial(points.as_map, (height, width)) if len(points.depth) else None
