"""Reports on the recordings of a data set, warnings about them, and the page that shows both.

The page is made with the toolkit of the evaluation's reports, `depth_ros.evaluation.report`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from depth_ros.evaluation.report.charts import BLUE, Chart, chart, colors
from depth_ros.evaluation.report.page import Picture, picture, render
from depth_ros.files import write_file
from train.data.pictures import IMAGE_SUFFIXES
from train.data.sequences import DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXAMPLES = 12  # pictures shown of each part
FEW = 100  # smallest number of training samples without a warning
# Largest values without a warning: shares of static frames, of pictures whose brightness jumps and
# of blurred pictures, and the motion between two pictures as a share of the width.
STILL, FLICKERING, BLURRY, LARGE = 0.5, 0.25, 0.1, 0.08
FLICKER = 0.06  # relative difference in brightness from which a picture jumps
BLURRED = 0.3  # share of the median sharpness below which a picture is blurred
SOFT = 0.03  # median sharpness below which all pictures seem blurred, by two pixels or more
PARTS = ('train', 'val', 'test', '')
"""Parts in the order of the page; '' is a data set that is not divided."""

CURVES = 8
"""Largest number of recordings whose brightness is drawn, so that curves stay visible."""

_TITLES = {
    'warnings': 'Warnings',
    'frames': 'Frames',
    'examples': 'Pictures',
    'motion': 'Motion and light',
    'recordings': 'Recordings',
}


@dataclass(frozen=True)
class Report:
    """Result of preparing one recording.

    Attributes:
        name: Name of its sequences.
        facts: Facts about it, by name; always has `source`, its path.
        remarks: Warnings of its reader.
        frames: Number of its frames.
        static: Number of frames left out because the camera stood.
        close: Number of frames left out because they moved too little since the one before.
        apart: Number of frames left out between two parts, to keep these apart.
        damaged: Message for each frame that could not be used.
        parts: Number of frames, of targets, and of targets with both neighbours, by part.
        flow: Motion of each kept frame since the one before, pixels at network size.
        brightness: Mean grey level of each picture, 0 to 255.
        sharpness: Sharpness of each kept picture.
        size: Width and height of the recorded pictures.
        intrinsics: Rows of the intrinsics (3, 3) of the stored pictures; None: unknown.
        inputs: Fingerprint of the recording's files; '' if unknown.
    """

    name: str
    facts: dict[str, str]
    remarks: list[str]
    frames: int
    static: int
    close: int
    apart: int
    damaged: list[str]
    parts: dict[str, tuple[int, int, int]]
    flow: list[float]
    brightness: list[float]
    sharpness: list[float]
    size: list[int]
    intrinsics: list[list[float]] | None
    inputs: str = ''

    def save(self, folder: Path) -> None:
        """Write the report to a folder; the file is written whole or not at all."""
        folder.mkdir(exist_ok=True)
        write_file(folder / f'{self.name}.json', json.dumps(asdict(self)))

    @classmethod
    def load(cls, folder: Path, name: str, source: str | None = None) -> Report | None:
        """Read the report of a recording; None if there is none.

        Args:
            folder: Folder of the reports.
            name: Name of the recording.
            source: Path that the recording must have; None: any.

        Raises:
            DataError: if the file is damaged, or of a recording at another path.
        """
        path = folder / f'{name}.json'
        if not path.exists():
            return None
        try:
            report = cls(**json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise DataError(f"'{path}' is damaged: remove it, to prepare '{name}' again") from error
        if source not in (None, report.facts['source']):
            raise DataError(
                f"'{folder.parent}' has a '{name}' already, of "
                f"'{report.facts['source']}': rename '{source}'"
            )
        return report


def warnings(reports: list[Report]) -> list[tuple[str, str]]:
    """Return warnings of what may spoil a training: name of the recording ('all') and text."""
    parts = {part for report in reports for part in report.parts}
    samples = sum(
        part[2] for r in reports for name, part in r.parts.items() if name in ('', 'train')
    )
    found = [(report.name, text) for report in reports for text in _warnings(report)]
    if samples < FEW:
        found.append(
            (
                'all',
                f'too few frames: {samples} to train on that have both neighbours, a '
                f'training needs {FEW} or more',
            )
        )
    if parts == {'train'}:
        found.append(
            (
                'all',
                'nothing for val: too short to be divided, or --shares leaves none; '
                'prepare another recording for it',
            )
        )
    return found


def _warnings(report: Report) -> list[str]:
    """The warnings for one recording."""
    found = list(report.remarks)
    measured = max(1, report.frames - len(report.damaged))
    if report.static > STILL * measured:
        found.append(
            f'camera looks mostly static: {100 * report.static / measured:.0f} % of the '
            'frames show no motion'
        )
    if (share := _flicker(np.array(report.brightness))) > FLICKERING:
        found.append(
            f'rolling exposure: the brightness of {100 * share:.0f} % of the images jumps '
            'against those before and after: fix exposure and gain of the camera'
        )
    sharpness = np.array(report.sharpness)
    if len(sharpness) and np.median(sharpness) < SOFT:
        found.append('images look blurred: check focus and exposure time')
    elif len(sharpness) and (share := (sharpness < BLURRED * np.median(sharpness)).mean()) > BLURRY:
        found.append(
            f'{100 * share:.0f} % of the images are much less sharp than the others: '
            'motion blur? Shorten the exposure time'
        )
    if report.intrinsics is None:
        found.append('the camera is not calibrated: train with --learn-intrinsics true')
    elif report.flow and np.median(report.flow) > LARGE * 2 * report.intrinsics[0][2]:
        found.append(
            f'the picture moves by {np.median(report.flow):.0f} pixels from one to the '
            'next: record at a higher rate, or drive slower'
        )
    if report.damaged:
        found.append(f'{len(report.damaged)} damaged images left out, such as: {report.damaged[0]}')
    return found


def _flicker(brightness: np.ndarray) -> float:
    """Share of pictures whose brightness jumps.

    Such a picture is clearly brighter, or darker, than both pictures 1, 2 or 3 frames before and
    after it. Driving into the shade causes no such peak, an overshooting exposure control many.
    """
    peaks = np.zeros(len(brightness), bool)
    for reach in (1, 2, 3):
        here = brightness[reach:-reach]
        rise, fall = here - brightness[: -2 * reach], here - brightness[2 * reach :]
        peak = (rise * fall > 0) & (np.minimum(abs(rise), abs(fall)) > FLICKER * here.clip(10))
        peaks[reach:-reach] |= peak
    return float(peaks.mean()) if len(peaks) else 0.0


def write_page(out: Path, reports: list[Report]) -> Path:
    """Write `out / 'summary.html'` and return its path.

    Args:
        out: Folder of the data set.
        reports: Reports on all its recordings.

    Raises:
        MissingPackageError: if Jinja2 or matplotlib is not installed.
    """
    parts = sorted({part for r in reports for part in r.parts}, key=PARTS.index)
    frames = sum(r.frames for r in reports)
    left_out = sum(r.static + r.close + r.apart + len(r.damaged) for r in reports)
    samples = {p: sum(r.parts[p][2] for r in reports if p in r.parts) for p in parts}
    flow = np.array([f for r in reports for f in r.flow])
    counts = [
        (r.frames, r.static, r.close, r.apart, len(r.damaged))
        + tuple(r.parts.get(p, (0,))[0] for p in parts)
        for r in reports
    ]
    rows: list[tuple] = [(r.name, *row) for r, row in zip(reports, counts, strict=True)]
    if len(rows) > 1:
        rows.append(('all', *(sum(column) for column in zip(*counts, strict=True))))
    examples = {p: _examples(out / p, [r.name for r in reports if p in r.parts]) for p in parts}
    name = out.resolve().name
    text = render(
        'prepare',
        f'{name}: prepared',
        name,
        _TITLES,
        [Path(__file__).parent / 'templates'],
        frames=frames,
        kept=frames - left_out,
        samples=samples,
        median_flow=float(np.median(flow)) if len(flow) else None,
        warnings=warnings(reports),
        parts=parts,
        rows=rows,
        examples=examples,
        charts=[_motion(flow), _brightness(reports)],
        recordings=[(r, _facts(r)) for r in reports],
    )
    write_file(out / 'summary.html', text)
    return out / 'summary.html'


def _examples(folder: Path, names: Sequence[str]) -> list[Picture]:
    """Return example pictures, spread evenly over the sequences of a part."""
    images = [
        path
        for name in names
        for path in sorted((folder / name / 'images').iterdir())
        if path.suffix in IMAGE_SUFFIXES
    ]
    found = []
    for index in np.unique(np.linspace(0, len(images) - 1, EXAMPLES).round().astype(int)):
        path = images[index]
        image = cv2.imread(str(path))
        if image is not None:
            found.append(picture(image[..., ::-1], f'{path.parent.parent.name} {path.stem}'))
    return found


def _motion(flow: np.ndarray) -> Chart:
    """Return a histogram of the motion between successive pictures, pixels."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        if len(flow):
            top = max(float(np.percentile(flow, 99)) * 1.1, 1.0)
            axes.hist(flow.clip(max=top), np.linspace(0, top, 31).tolist(), color=BLUE)
        axes.set_xlabel('motion since the frame before, pixels (median flow)')
        axes.set_ylabel('frames')

    return chart(draw, (5.4, 3), 'histogram of motion')


def _brightness(reports: Sequence[Report]) -> Chart:
    """Return a chart of the pictures' brightness over time."""
    shown = reports[:CURVES]

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for report, color in zip(shown, colors(len(shown)), strict=True):
            share = np.linspace(0, 100, len(report.brightness))
            axes.plot(share, report.brightness, linewidth=1, color=color, label=report.name)
        if len(shown) > 1:
            axes.legend(fontsize=7)
        axes.set_ylim(0, 255)
        axes.set_xlabel('part of the recording, %')
        axes.set_ylabel('brightness')

    return chart(draw, (5.4, 3), 'brightness over time')


def _facts(report: Report) -> dict[str, str]:
    """Return facts about a recording, by name."""
    facts = {**report.facts, 'size': f'{report.size[0]}x{report.size[1]} pixels'}
    if report.intrinsics is None:
        return {**facts, 'intrinsics': 'unknown'}
    (fx, _, cx), (_, fy, cy), _ = report.intrinsics
    stored = f'fx {fx:.1f}, fy {fy:.1f}, cx {cx:.1f}, cy {cy:.1f}'
    return {**facts, 'intrinsics, as stored': stored}
