"""How far the scale of depth is off, by each source, over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from depth_ros.bags.ground_truth import GroundTruth
from depth_ros.core.depth_motion import Moved
from depth_ros.core.scale import SOURCES

USED = 'used'
"""Name of the source that was chosen, in columns of the table of frames."""

COLUMNS = tuple(
    f'scale_{name}{end}' for name in (*SOURCES[:3], USED) for end in ('', '_sigma', '_error')
)
"""Metres per unit by each source, its standard deviation, and its relative error."""

AROUND = 2.0
"""Seconds before and after a frame whose true distances tell its true scale."""

CLOSE = 0.07
"""Relative error that a scale is wanted to stay within."""


def true_scales(
    frames: Mapping[str, np.ndarray], moves: Sequence[Moved], truth: GroundTruth
) -> tuple[np.ndarray, str]:
    """Return the true metres per unit of each frame's depth, (N,), NaN = unknown, and from what.

    Args:
        frames: Columns of the table of frames; `scale` brings the evaluated depth to the truth.
        moves: Distances in units of depth.
        truth: True depth, as it is in `frames`, and else true poses.
    """
    stamps = frames['stamp']
    used = frames.get(f'scale_{USED}', np.full(len(stamps), np.nan))
    if 'scale' in frames:
        return frames['scale'] * np.where(np.isfinite(used), used, 1.0), 'depth'
    scales = np.full(len(stamps), np.nan)
    if not moves or not len(truth.track):
        return scales, ''
    ends = [round(1e9 * t) for move in moves for t in (move.start, move.end)]
    places = truth.track.at(ends, truth.tolerance)[:, :3, 3].reshape(-1, 2, 3)
    ratios = np.linalg.norm(places[:, 1] - places[:, 0], axis=1) / [m.units for m in moves]
    times = np.array([move.end for move in moves])
    known = np.isfinite(ratios) & (ratios > 0)
    times, ratios = times[known], ratios[known]
    for i, stamp in enumerate(stamps.tolist()):
        near = ratios[np.abs(times - stamp) <= AROUND]
        if len(near) >= 3:
            scales[i] = np.median(near)
    return scales, 'poses' if np.isfinite(scales).any() else ''


def scale_numbers(
    frames: dict[str, np.ndarray], moves: Sequence[Moved], truth: GroundTruth
) -> dict | None:
    """Return what metrics.json holds of the scale, and add the errors to the table of frames.

    None where no source says a scale.
    """
    names = [name for name in (*SOURCES[:3], USED) if f'scale_{name}' in frames]
    if not names:
        return None
    true, source = true_scales(frames, moves, truth)
    rows = {}
    for name in names:
        values, sigmas = frames[f'scale_{name}'], frames[f'scale_{name}_sigma']
        known = np.isfinite(values)
        rows[name] = {
            'known_percent': 100 * float(known.mean()),
            'median': float(np.median(values[known])),
            'sigma_percent': 100 * float(np.median(sigmas[known] / values[known])),
        }
        errors = values / true - 1
        judged = np.isfinite(errors)
        if not judged.any():
            continue
        frames[f'scale_{name}_error'] = errors
        errors, sigmas = errors[judged], (sigmas / values)[judged]
        rows[name] |= {
            'error_percent': 100 * float(np.median(errors)),
            'mean_abs_error_percent': 100 * float(np.abs(errors).mean()),
            'within_7_percent': 100 * float((np.abs(errors) <= CLOSE).mean()),
            'nees': float(np.mean(np.square(errors / sigmas))),
        }
    return {'truth': source or None, 'sources': rows}
