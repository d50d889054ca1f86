"""Reconstructing long drives in spans, so that memory depends on a span, not on the drive.

Each span makes parts of its own. This loses nothing, as the metric scale is estimated all along the
drive anyway.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from train.data.sequences import DataError, Sequence
from train.structure.found import Lens, Reconstruction
from train.structure.reconstruct import Options, reconstruct

Progress = Callable[[float, str], object]
STAGES = {'masks': 0.0, 'features': 0.02, 'matches': 0.5, 'mapping': 0.65, 'points': 0.97}
"""Share of a span's time that has passed when each stage begins, roughly."""


def reconstruct_spans(
    sequence: Sequence, work: Path, options: Options, progress: Progress = lambda share, stage: None
) -> Reconstruction:
    """Reconstruct a sequence, span after span.

    Args:
        sequence: images of one camera and size.
        work: empty folder for COLMAP's files.
        options: options of the reconstruction.
        progress: function that is called with the share of the work done and the next stage.

    Raises:
        DataError: if nothing can be reconstructed; the message says why.
    """
    count = len(sequence.images)
    spans = np.array_split(np.arange(count), math.ceil(count / options.span))
    found: list[tuple[int, Reconstruction]] = []
    failures: list[DataError] = []
    lens: Lens | None = None
    for number, span in enumerate(spans):

        def step(stage: str, number: int = number) -> None:
            name = stage if len(spans) == 1 else f'{stage} {number + 1}/{len(spans)}'
            progress((number + STAGES[stage]) / len(spans), name)

        folder = work / str(number)
        folder.mkdir()
        try:
            result = reconstruct(_only(sequence, span), folder, options, step, lens)
        except DataError as error:
            failures.append(error)
        else:
            found.append((int(span[0]), result))
            lens = result.lens if result.lens.estimated else None
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    if not found:
        raise failures[0]
    return join(count, found)


def _only(sequence: Sequence, span: np.ndarray) -> Sequence:
    """Reduce a sequence to some of its images, without tables, which are not needed here."""
    images = tuple(sequence.images[i] for i in span)
    nothing = dict.fromkeys(('times', 'poses', 'odometry', 'speeds', 'frames'))
    return replace(sequence, images=images, **nothing)


def join(count: int, found: list[tuple[int, Reconstruction]]) -> Reconstruction:
    """Join the reconstructions of spans.

    Args:
        count: number of frames of the whole sequence.
        found: first frame and reconstruction of each span.
    """
    if len(found) == 1 and len(found[0][1].part) == count:
        return found[0][1]
    part, poses = np.full(count, -1), np.full((count, 4, 4), np.nan)
    parts = points = 0
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ('frame', 'point')}
    for start, one in found:
        frames = slice(start, start + len(one.part))
        part[frames] = np.where(one.part >= 0, one.part + parts, -1)
        poses[frames] = one.poses
        columns['frame'].append(one.frame + start)
        columns['point'].append(one.point + points)
        parts += one.parts
        points += len(one.world)
    plain = ('xy', 'depth', 'error', 'track', 'angle', 'world')
    return Reconstruction(
        part=part,
        poses=poses,
        lens=found[0][1].lens,
        doubt=next((one.doubt for _, one in found if one.doubt), ''),
        **{name: np.concatenate(arrays) for name, arrays in columns.items()},
        **{name: np.concatenate([getattr(one, name) for _, one in found]) for name in plain},
    )
