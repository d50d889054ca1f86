"""Frames as pictures: what went in, what came out, what is true, each in the same colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from depth_ros.core.colors import (
    DEPTH_PALETTE,
    ERROR_PALETTE,
    WORST_ERROR,
    color_depth,
    color_error,
    color_labels,
)
from depth_ros.evaluation.report.page import SMALL_AREA, Picture, picture
from depth_ros.inference.contract import ModelContract, SemanticClass

if TYPE_CHECKING:
    from depth_ros.evaluation.frame_scores import Example


@dataclass(frozen=True)
class ColorBar:
    """What the colours of pictures stand for.

    Attributes:
        note: What they show.
        colors: From left to right, uint8 (N, 3), RGB.
        marks: Texts at percents of the width.
    """

    note: str
    colors: np.ndarray
    marks: Sequence[tuple[float, str]]


@dataclass(frozen=True)
class Row:
    """Pictures of one frame.

    Attributes:
        time: Time since the first frame, seconds.
        above: The image and what came out.
        below: Error and truth under each of `above`, None for a gap; empty without truth.
        rank: 0 for an example, 1 for the worst frame, ...
        abs_rel: Abs Rel of the frame; None without truth.
    """

    time: float
    above: Sequence[Picture]
    below: Sequence[Picture | None] = ()
    rank: int = 0
    abs_rel: float | None = None


class Gallery:
    """Makes pictures of frames, all with the same colours.

    Args:
        examples: The frames.
        start: Stamp of the recording's first frame, seconds.
        contract: Of the perception model; None without.
        true_names: The truth's classes, by id.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        start: float,
        contract: ModelContract | None,
        true_names: Sequence[str] = (),
    ) -> None:
        self._examples, self._start = examples, start
        self._near = _near(examples)
        self._metric = bool(contract and contract.metric)
        self._affine = bool(contract and contract.affine_invariant)
        self._classes: Sequence[SemanticClass] = contract.classes if contract else ()
        # The truth may have classes of its own; those of the same name get the same colour.
        colors = {c.name: c.color for c in self._classes}
        self._true_classes = [
            SemanticClass(index, name, colors.get(name, (190, 190, 190)))
            for index, name in enumerate(true_names)
        ]

    def images(self, example: Example) -> dict[str, np.ndarray]:
        """Return everything that is known of a frame in colours, uint8 (H, W, 3), by its name."""
        found = {'Camera': example.rgb}
        # Before its scale is known, none is published.
        if example.depth is not None and np.isfinite(example.depth).any():
            depth = example.depth
            if example.true_depth is not None and not (self._metric or self._affine):
                depth = depth * (np.nanmedian(example.true_depth) / np.nanmedian(depth))
            found['Depth'] = color_depth(depth, self._near)
        if example.true_depth is not None:
            found['True depth'] = color_depth(_thicker(example.true_depth), self._near)
        if example.error is not None:
            found['Error of depth'] = color_error(_thicker(example.error), example.rgb)
        if example.labels is not None:
            found['Masks'] = color_labels(example.labels, _colors(self._classes), example.rgb)
        if example.true_labels is not None:
            found['True masks'] = color_labels(
                example.true_labels, _colors(self._true_classes), example.rgb
            )
        return found

    def examples(self) -> list[Row]:
        """Return the frames that show what the model does, in order of time."""
        return [self._example(e) for e in self._examples if not e.rank]

    def worst(self) -> list[Row]:
        """Return the worst frames, the worst first."""
        worst = sorted((e for e in self._examples if e.rank), key=lambda e: e.rank)
        return [self._worst(e) for e in worst]

    def _time(self, example: Example) -> float:
        return example.stamp_ns / 1e9 - self._start

    def _example(self, example: Example) -> Row:
        time, images = self._time(example), self.images(example)
        above = [picture(images['Camera'], f'Camera image at {time:.1f} s')]
        below = [_picture(images, 'Error of depth')]
        if 'Depth' in images:
            score = '' if example.abs_rel is None else f' (Abs Rel {example.abs_rel:.3f})'
            above.append(picture(images['Depth'], 'Depth'))
            below.append(_picture(images, 'True depth', score))
        if 'Masks' in images:
            above.append(picture(images['Masks'], 'Masks'))
            below.append(_picture(images, 'True masks'))
        truth = 'True depth' in images or 'True masks' in images
        return Row(time, above, below if truth else ())

    def _worst(self, example: Example) -> Row:
        """One row of four at most; depth comes before masks."""
        images = self.images(example)
        names = [n for n in ('Camera', 'Depth', 'True depth', 'Error of depth') if n in images]
        if len(names) < 3:
            names += [n for n in ('Masks', 'True masks') if n in images]
        shown = [picture(images[name], name, SMALL_AREA) for name in names]
        return Row(self._time(example), shown, (), example.rank, example.abs_rel)

    def bars(self) -> list[ColorBar]:
        """Return what the colours of depth and of its error stand for."""
        bars = []
        if any(e.depth is not None for e in self._examples):
            bars.append(self._depth_bar(any(e.true_depth is not None for e in self._examples)))
        if any(e.error is not None for e in self._examples):
            fit = 'fitting scale and shift' if self._affine else 'median scaling'
            note = f'Relative error of depth after {fit}; no colour where the truth is unknown.'
            marks = [(x, f'{WORST_ERROR * x:.0f} %') for x in (0, 50)]
            marks.append((100, f'{100 * WORST_ERROR:.0f} % and more'))
            bars.append(ColorBar(note, ERROR_PALETTE[1::17], marks))
        return bars

    def _depth_bar(self, truth: bool) -> ColorBar:
        note = 'Depth; black has none, as the sky.'
        if truth and self._affine:
            note += ' Scale and shift of each prediction are fitted to the truth.'
        elif truth and not self._metric:
            note += ' Each prediction is scaled to the median of the truth.'
        if self._affine and not truth:
            marks = [(0, 'near'), (100, 'far')]
        else:
            marks = [(100 * (1 - 1 / f), f'{self._near * f:.3g}') for f in (1, 1.5, 2.5, 6)]
            marks.append((100, f'∞ {"m" if self._metric or truth else "model units"}'))
        return ColorBar(note, DEPTH_PALETTE[:0:-15], marks)

    def legend(self) -> list[SemanticClass]:
        """Return the model's classes that are seen in a frame, with their colours."""
        seen = set()
        for example in self._examples:
            for labels, classes in (
                (example.labels, self._classes),
                (example.true_labels, self._true_classes),
            ):
                ids = () if labels is None else np.unique(labels)
                seen |= {classes[i].name for i in ids if i < len(classes)}
        return [c for c in self._classes if c.name in seen]


def _picture(images: Mapping[str, np.ndarray], name: str, more: str = '') -> Picture | None:
    """A picture of the image of this name; None where there is none."""
    return picture(images[name], f'{name}{more}') if name in images else None


def _near(examples: Sequence[Example]) -> float:
    """Depth that the warm end of the colours stands for: about 5 % of the scenes is nearer."""
    near = []
    for example in examples:
        depth = example.true_depth if example.true_depth is not None else example.depth
        if depth is not None and np.isfinite(depth).any():
            near.append(np.nanpercentile(depth, 5))
    return float(np.median(near)) if near else 1.0


def _colors(classes: Sequence[SemanticClass]) -> dict[int, tuple[int, int, int]]:
    return {item.id: item.color for item in classes}


def _thicker(values: np.ndarray) -> np.ndarray:
    """Spread the points of a lidar to their neighbours: they would vanish in a small picture."""
    known = np.isfinite(values)
    if known.mean() > 0.2:
        return values
    spread = cv2.dilate(np.where(known, values, -1).astype(np.float32), np.ones((3, 3)))
    return np.where(known, values, np.where(spread >= 0, spread, np.nan))
