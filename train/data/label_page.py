"""The page of ``python -m train label``: what the masks are like, as numbers and pictures.

It is made with the toolkit of the evaluation's reports, `depth_ros.evaluation.report`.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from depth_ros.core.colors import color_labels
from depth_ros.core.labels import UNLABELED
from depth_ros.evaluation.report.page import Picture, percent, picture, render
from depth_ros.files import write_file
from depth_ros.inference.classes import CITYSCAPES
from train.data.sequences import DataError, Sequence, read_map, read_picture, resize_map

NAME = 'labels.html'
SAMPLE = 60
"""Label images of a sequence, about, that its numbers are from."""

EXAMPLES = 12
"""Overlays of a data set."""

GROUND = tuple(c.id for c in CITYSCAPES if c.name in ('road', 'sidewalk'))
MARGIN, STRAY, OFTEN = 0.1, 0.02, 0.05
"""Road is above the horizon where it takes more than the share STRAY of what is higher than MARGIN
of the height over it; a sequence is warned of where that is so in more than the share OFTEN."""

_TITLES = {'warnings': 'Warnings', 'classes': 'Classes', 'examples': 'Pictures'}


class Looked(NamedTuple):
    """What a sample of a sequence's labels is like.

    Attributes:
        name: of the sequence.
        count: label images looked at.
        shares: (256,) of the pixels, by id.
        strange: share of the images whose road stands above the horizon.
    """

    name: str
    count: int
    shares: np.ndarray
    strange: float


def look_at(sequence: Sequence) -> Looked | None:
    """Look at a sample of a sequence's labels; None where there are none."""
    there = [i for i in range(len(sequence.images)) if sequence.semantics_path(i).exists()]
    counts, strange, count = np.zeros(256, np.int64), 0, 0
    for index in there[:: max(1, len(there) // SAMPLE)]:
        try:
            labels = read_map(sequence.semantics_path(index), dtype=np.uint8)
        except DataError:
            continue
        count += 1
        counts += np.bincount(labels.ravel(), minlength=256)
        strange += road_in_the_sky(labels, horizon(sequence, labels.shape[0]))
    if not count:
        return None
    return Looked(sequence.folder.name, count, counts / counts.sum(), strange / count)


def horizon(sequence: Sequence, height: int) -> float:
    """Row of the horizon of a camera that is level: the principal point's, or the middle.

    Args:
        sequence: of the camera; its label images have the size of its images.
        height: of these.
    """
    center = float(sequence.intrinsics[1, 2])
    return center if np.isfinite(center) and 0 < center < height else height / 2


def road_in_the_sky(labels: np.ndarray, row: float) -> bool:
    """Tell whether road or pavement stands well above the row of the horizon, in labels (H, W)."""
    above = labels[: max(0, round(row - MARGIN * len(labels)))]
    return bool(above.size and np.isin(above, GROUND).mean() > STRAY)


def warnings(looked: list[Looked]) -> list[tuple[str, str]]:
    """What may spoil a training with the labels: (sequence, text)."""
    found = []
    for one in looked:
        if one.strange > OFTEN:
            found.append(
                (
                    one.name,
                    f'road stands above the horizon in {100 * one.strange:.0f} % of the images: '
                    'look at them; fit would teach it',
                )
            )
        if one.shares[UNLABELED] > 0.5:
            unknown = 100 * one.shares[UNLABELED]
            found.append((one.name, f'{unknown:.0f} % of the pixels have no class'))
        if one.shares.max() > 0.95 and one.shares.argmax() != UNLABELED:
            names = {c.id: c.name for c in CITYSCAPES}
            best = int(one.shares.argmax())
            found.append((one.name, f'nearly all of it is {names.get(best, best)}'))
    return found


def write_page(out: Path, sequences: list[Sequence], looked: list[Looked]) -> Path:
    """Write ``out / 'labels.html'``; returns its path.

    Args:
        out: folder of the data set.
        sequences: all of it.
        looked: what :func:`look_at` found.

    Raises:
        MissingPackageError: if Jinja2 or matplotlib is not installed.
    """
    total = sum(one.count for one in looked)
    mean = np.average([one.shares for one in looked], 0, [one.count for one in looked])
    rows = [
        (c.name, percent(mean[c.id]), percent(max(one.shares[c.id] for one in looked)))
        for c in sorted(CITYSCAPES, key=lambda c: -mean[c.id])
    ]
    rows.append(('no class', percent(mean[UNLABELED]), ''))
    name = out.resolve().name
    text = render(
        'labels',
        f'{name}: labels',
        name,
        _TITLES,
        [Path(__file__).parent / 'templates'],
        sequences=len(looked),
        sample=total,
        unknown=mean[UNLABELED],
        seen=sum(bool(mean[c.id] > 0) for c in CITYSCAPES),
        warnings=warnings(looked),
        rows=rows,
        examples=_examples(sequences),
    )
    write_file(out / NAME, text)
    return out / NAME


def _examples(sequences: list[Sequence]) -> list[Picture]:
    """Overlays spread evenly over a data set."""
    labelled = [
        (s, i) for s in sequences for i in range(len(s.images)) if s.semantics_path(i).exists()
    ]
    colors = {c.id: c.color for c in CITYSCAPES}
    found = []
    for place in np.unique(np.linspace(0, len(labelled) - 1, EXAMPLES).round().astype(int)):
        sequence, index = labelled[place]
        try:
            rgb = cv2.cvtColor(read_picture(sequence.images[index]), cv2.COLOR_BGR2RGB)
            labels = read_map(sequence.semantics_path(index), dtype=np.uint8)
        except DataError:
            continue
        labels = resize_map(labels, rgb.shape[1], rgb.shape[0])
        shown = color_labels(labels, colors, rgb)
        found.append(picture(shown, f'{sequence.folder.name} {sequence.images[index].stem}'))
    return found
