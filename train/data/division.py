"""Which frames of a source are for training, validation and test."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np

from train.data.source import REACH, Source

SPANS = ('train', 'val', 'test')

LEAST = 2 * REACH + 1
"""Frames of a span: one sample of five."""

GAP = 5
"""Frames between two spans, so that one does not show what the other shows."""

HELD_OUT = 0.1
"""Share of the targets that are for validation, as SfMLearner has it."""


def divide(
    source: Source,
    keep: np.ndarray,
    numbers: np.ndarray,
    part: str,
    shares: tuple[float, ...] | None,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Divide the frames of a source.

    Args:
        source: The source; its name decides which targets are held out for validation.
        keep: (N,) bool, the frames that are not left out.
        numbers: (N,) the frames' numbers; those one apart are neighbours.
        part: 'all', 'both', 'train' or 'val'; not used with `shares`.
        shares: Of time for training, validation and test; None: a random tenth is for validation.

    Returns:
        By part, ('' where there are none) which frames it has and which of them are targets, each
        (N,) bool. Parts without targets are left out.
    """
    targets = keep if source.targets is None else source.targets & keep
    if shares:
        parts = {
            name: (frames, targets & frames)
            for name, frames in zip(SPANS, _spans(keep, shares), strict=True)
        }
    elif part == 'all':
        parts = {'': (keep, targets)}
    else:
        held_out = _held_out(source, targets)
        near = np.unique(numbers[held_out, None] + np.arange(-REACH, REACH + 1))
        parts = {
            'train': (keep, targets & ~held_out),
            'val': (keep & np.isin(numbers, near), held_out),
        }
        if part != 'both':
            parts = {'': parts[part]}
    return {name: masks for name, masks in parts.items() if masks[1].any()}


def _spans(keep: np.ndarray, shares: tuple[float, ...]) -> Iterator[np.ndarray]:
    """Yield which frames are for training, validation, test; all for training if there are few."""
    kept = np.flatnonzero(keep)
    gap = min(GAP, len(kept) // 20)
    lengths = [max(LEAST, round(len(kept) * share)) if share else 0 for share in shares]
    # Training has what the others leave.
    lengths[0] = len(kept) - sum(lengths[1:]) - gap * sum(n > 0 for n in lengths[1:])
    if lengths[0] < LEAST:
        lengths = [len(kept), 0, 0]
    start = 0
    for length in lengths:
        frames = np.zeros(len(keep), bool)
        frames[kept[start : start + length]] = True
        yield frames
        start += length + gap * (length > 0)


def samples(numbers: np.ndarray, frames: np.ndarray, targets: np.ndarray) -> int:
    """Return how many targets have both neighbours."""
    there = set(numbers[frames].tolist())
    return sum(n - 1 in there and n + 1 in there for n in numbers[targets].tolist())


def _held_out(source: Source, targets: np.ndarray) -> np.ndarray:
    """Return a random tenth of the targets, but at least one of two or more."""
    random = np.random.default_rng(zlib.crc32(source.name.encode()))
    chosen = targets & (random.random(len(targets)) < HELD_OUT)
    if not chosen.any() and targets.sum() > 1:
        chosen[random.choice(np.flatnonzero(targets))] = True
    return chosen
