"""The page of ``python -m train structure``: results as numbers and pictures.

It is made with the toolkit of the evaluation's reports, :mod:`depth_ros.evaluation.report`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from depth_ros.evaluation.report.charts import BLUE, MUTED, ORANGE, Chart, chart, colors
from depth_ros.evaluation.report.page import Picture, number, percent, picture, render
from depth_ros.evaluation.structure import Structure, StructureError
from depth_ros.files import write_file
from train.data.sequences import DataError, Sequence, read_picture, read_sequence
from train.structure.build import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = 'structure.html'
EXAMPLES = 3  # example frames of a sequence
WIDTH = 480  # width of an example, pixels
SHOWN = 60  # largest number of sequences with pictures, so that browsers can still open the page
CLOUD = 40  # frames whose points are drawn from above
NEAR = 60  # percentile of depth up to which points are drawn from above
HEAD = (
    'sequence',
    'frames',
    'registered',
    'points a frame',
    'reprojection error',
    'depth sure to',
    'parts',
    'length',
    'metres from',
    'sure to',
)
_TITLES = {'sequences': 'Sequences', 'left_out': 'Left out', 'drives': 'Drives'}


@dataclass(frozen=True)
class Shown:
    """Pictures of one sequence.

    Attributes:
        examples: frames with their points.
        charts: the camera's path from above, and the number of points of each frame.
    """

    examples: list[Picture]
    charts: list[Chart]


def write_page(out: Path, reports: list[Report]) -> Path:
    """Write ``out / 'structure.html'`` and return its path.

    Args:
        out: folder of the data set.
        reports: reports of all its sequences.

    Raises:
        MissingPackageError: if Jinja2 or matplotlib is not installed.
    """
    good = [report for report in reports if not report.failure]
    frames = sum(report.registered for report in good)
    points = sum(report.registered * report.points for report in good)
    metric = sum(part.frames for r in good for part in r.parts if part.spread is not None)
    name = out.resolve().name
    text = render(
        'structure',
        f'{name}: structure',
        name,
        _TITLES,
        [Path(__file__).parent / 'templates'],
        good=good,
        reports=reports,
        registered=frames,
        frames=sum(report.frames for report in reports),
        points=points / max(1, frames),
        metric=metric / max(1, frames),
        head=HEAD,
        rows=[_row(report) for report in good],
        bad=[report for report in reports if report.failure],
        drives=[(r, _facts(r), _show(Path(r.folder))) for r in good[:SHOWN]],
        hidden=len(good[SHOWN:]),
    )
    write_file(out / NAME, text)
    return out / NAME


def _row(report: Report) -> tuple[str, ...]:
    """A row of the table of sequences."""
    metric = [part for part in report.parts if part.spread is not None]
    return (
        report.name,
        str(report.frames),
        percent(report.registered / report.frames, '.0f'),
        number(report.points, '.0f'),
        f'{number(report.error, ".2f")} px',
        percent(report.sigma),
        str(len(report.parts)),
        f'{number(sum(part.length for part in metric), ".0f")} m' if metric else '–',
        metric[0].source if metric else 'none',
        percent(max(part.spread or 0.0 for part in metric)) if metric else '–',
    )


def _facts(report: Report) -> dict[str, str]:
    """What is known of a sequence's camera, by name."""
    facts = {'focal length': f'{report.focal[0]:.1f}, {report.focal[1]:.1f} pixels'}
    if report.estimated:
        facts['focal length'] += ', found by the reconstruction'
        facts['distortion'] = f'k1 {report.distortion:.3f}, taken out of the pictures'
    return facts


def _show(folder: Path) -> Shown | None:
    """Draw the pictures of a sequence; ``None`` if its files no longer exist."""
    try:
        sequence = read_sequence(folder)
        structure = sequence.structure()
        if structure is None:
            return None
        frames = np.flatnonzero(structure.registered)
        places = np.linspace(0, len(frames) - 1, EXAMPLES + 2).round().astype(int)[1:-1]
        return Shown(
            [_overlay(sequence, structure, int(i)) for i in np.unique(frames[places])],
            [_way(structure), _counts(structure)],
        )
    except (DataError, StructureError):
        return None


def _overlay(sequence: Sequence, structure: Structure, index: int) -> Picture:
    """Draw a frame's points on its darkened grey image: near ones yellow, far ones violet."""
    from matplotlib import colormaps

    image = read_picture(sequence.images[index])
    scale = WIDTH / image.shape[1]
    size = WIDTH, max(1, round(scale * image.shape[0]))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    grey = (0.6 * cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)).astype(np.uint8)
    shown = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
    points = structure.points(index)
    low, high = np.log(np.percentile(structure.depth, [2, 98]))
    share = (np.log(points.depth) - low) / max(high - low, 1e-6)
    shades = colormaps['plasma_r'](share.clip(0, 1))[:, :3] * 255
    for i in np.argsort(-points.depth):  # near ones on top
        x, y = (points.xy[i] * scale).round().astype(int)
        cv2.circle(shown, (int(x), int(y)), 2, shades[i].tolist(), -1, cv2.LINE_AA)
    return picture(shown, sequence.images[index].stem)


def _way(structure: Structure) -> Chart:
    """Chart of the camera's path and the points around it, from above."""
    numbers = np.unique(structure.part[structure.registered])
    unit = 'm' if np.isfinite(structure.metric_spread).any() else 'no unit'
    seen = [_from_above(structure, int(n)) for n in numbers]

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for number_, (eyes, around), color in zip(numbers, seen, colors(len(seen)), strict=True):
            axes.plot(*around.T, ',', color=MUTED, alpha=0.6, rasterized=True)
            axes.plot(*eyes.T, linewidth=2, color=color, label=f'part {number_ + 1}')
        axes.set_aspect('equal', 'datalim')
        axes.set_xlabel(f'right, {unit}')
        axes.set_ylabel(f'forward, {unit}')
        if len(numbers) > 1:
            axes.legend(fontsize=7)

    return chart(draw, (5.4, 4), "the camera's path and the points around it, from above")


def _from_above(structure: Structure, number_: int) -> tuple[np.ndarray, np.ndarray]:
    """Project a part to the ground: its camera positions and nearby points.

    Returns:
        Camera positions (n, 2) and points (m, 2): right and forward, seen from the first frame.
    """
    frames = np.flatnonzero(structure.part == number_)
    poses = structure.poses[frames]
    axes = _upright(poses)[:, [0, 2]]
    far = np.percentile(structure.depth, NEAR)
    cloud = []
    for frame in frames[:: max(1, len(frames) // CLOUD)]:
        points, pose = structure.points(int(frame)), structure.poses[frame]
        near = points.depth < far
        pixels = np.column_stack([points.xy[near], np.ones(near.sum())])
        local = np.linalg.solve(structure.intrinsics, pixels.T) * points.depth[near]
        cloud.append((pose[:3, :3] @ local).T + pose[:3, 3])
    start = poses[0, :3, 3]
    return (poses[:, :3, 3] - start) @ axes, (np.concatenate(cloud) - start) @ axes


def _upright(poses: np.ndarray) -> np.ndarray:
    """Axes (3, 3), as columns: right, down and forward.

    Down is the mean over the poses (n, 4, 4), forward that of the first pose, made orthogonal.
    """
    down = poses[:, :3, 1].mean(0)
    down /= np.linalg.norm(down) + 1e-12
    forward = poses[0, :3, 2] - (poses[0, :3, 2] @ down) * down
    forward /= np.linalg.norm(forward) + 1e-12
    return np.stack([np.cross(down, forward), down, forward], 1)


def _counts(structure: Structure) -> Chart:
    """Chart of the number of points of each frame."""
    lost = np.flatnonzero(~structure.registered)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        counts = np.diff(structure.starts)
        axes.fill_between(np.arange(len(counts)), counts, color=BLUE, step='mid', alpha=0.7)
        if len(lost):
            axes.plot(lost, np.zeros(len(lost)), '|', color=ORANGE, label='left out')
            axes.legend(fontsize=7)
        axes.set_ylim(bottom=0)
        axes.set_xlabel('frame')
        axes.set_ylabel('points')

    return chart(draw, (5.4, 4), 'points of each frame')
