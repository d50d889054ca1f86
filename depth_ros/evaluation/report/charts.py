"""Charts of the result pages: matplotlib figures as SVG, for wide pages and for phones."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from depth_ros.evaluation.report.page import data_uri

if TYPE_CHECKING:  # an optional package: see page.require_packages
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, BLUE, ORANGE = '#1f2933', '#64707d', '#1f6feb', '#d9730d'
SERIES = (BLUE, ORANGE, '#2b8a3e', '#8e44ad', '#c2255c', '#0b7285', '#946200', '#5c5f66')
"""Colours of the curves of one chart, in order."""

STYLE: dict[Any, Any] = {
    'svg.fonttype': 'none',
    'svg.hashsalt': 'depth_ros',
    'font.family': 'sans-serif',
    'font.size': 10,
    'axes.edgecolor': '#c3cad1',
    'axes.labelcolor': MUTED,
    'xtick.color': MUTED,
    'ytick.color': MUTED,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'grid.color': '#e8ecf0',
    'legend.frameon': False,
    'text.color': INK,
    'axes.axisbelow': True,
}
"""Style of every chart, for matplotlib's `rc_context`."""


@dataclass(frozen=True)
class Chart:
    """A chart inside a page.

    Attributes:
        wide, narrow: Data URIs of the SVG for wide pages and for phones.
        alt: What it shows.
    """

    wide: str
    narrow: str
    alt: str


def chart(draw: Callable[[Figure], object], size: tuple[float, float], alt: str) -> Chart:
    """Draw a chart twice, for wide and for narrow pages, so that its text stays readable.

    Args:
        draw: Draws into an empty figure.
        size: Width and height on wide pages, inches; 1.5 times as large on the page.
        alt: What it shows.
    """
    narrow = 4.2, max(2.4, 0.85 * size[1])
    wide, narrow = (
        data_uri(save(draw, each, format='svg', metadata={'Date': None}), 'image/svg+xml')
        for each in (size, narrow)
    )
    return Chart(wide, narrow, alt)


def save(draw: Callable[[Figure], object], size: tuple[float, float], **options) -> bytes:
    """Draw a figure and return it as a file's content.

    Args:
        draw: Draws into an empty figure.
        size: Width and height, inches.
        options: Of matplotlib's `savefig`.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=size, layout='constrained')
        draw(figure)
        stream = io.BytesIO()
        figure.savefig(stream, **{'transparent': options.get('format') == 'svg', **options})
    return stream.getvalue()


def stacked(figure: Figure, titles: Sequence[str]) -> list[Axes]:
    """Return axes below each other that share the time axis, each with its title."""
    panels = figure.subplots(len(titles), 1, sharex=True, squeeze=False)[:, 0]
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, fontsize=10, loc='left', color=INK)
    panels[-1].set_xlabel('time, s')
    return list(panels)


def draw_paths(axes: Axes, truth: np.ndarray, paths: Mapping[str, np.ndarray], unit: str) -> None:
    """Draw paths from above: x right, y up.

    Args:
        axes: Where to draw.
        truth: True positions, (N, 3); N = 0 where they are unknown.
        paths: Other positions by label, (N, 3) each.
        unit: Of all positions.
    """
    if len(truth):
        look = {'color': MUTED, 'linewidth': 4, 'alpha': 0.45}
        axes.plot(*truth[:, :2].T, **look, label='ground truth', solid_capstyle='round')
    for (label, path), color in zip(paths.items(), colors(len(paths)), strict=True):
        look = {'color': color, 'linewidth': 1.8}
        axes.plot(*path[:, :2].T, **look, label=label, solid_capstyle='round')
    first = truth if len(truth) else next(iter(paths.values()))
    axes.plot(*first[0, :2], 'o', color=INK, markersize=6, label='start')
    # If the box followed the path, a straight street would be a line in a chart of no height.
    axes.set_aspect('equal', adjustable='datalim')
    axes.legend(loc='best', fontsize=9)
    axes.set_xlabel(f'x, {unit}')
    axes.set_ylabel(f'y, {unit}')


def draw_over_time(
    axes: Axes, seconds: np.ndarray, values: np.ndarray, color: str, label: str
) -> None:
    """Draw values over time: the median of neighbours, and their range as a pale band.

    Args:
        axes: Where to draw.
        seconds: Times, (N,), ascending.
        values: (N,), NaN = unknown; at least one is known.
        color, label: Of the curve.
    """
    known = np.isfinite(values)
    seconds, values = seconds[known], values[known]
    # More than about 300 points make a curve a smear and the file large.
    starts = np.arange(0, len(values), -(-len(values) // 300))[1:]
    times = np.array([np.median(part) for part in np.split(seconds, starts)])
    curves = np.array([(np.median(p), p.min(), p.max()) for p in np.split(values, starts)])
    steps = np.diff(times)
    holes = np.flatnonzero(steps > 3 * np.median(steps)) + 1 if len(steps) else []
    times, curves = np.insert(times, holes, np.nan), np.insert(curves, holes, np.nan, axis=0)
    axes.fill_between(times, curves[:, 1], curves[:, 2], color=color, alpha=0.18, linewidth=0)
    marker = 'o' if len(curves) == 1 else ''
    look = {'color': color, 'linewidth': 1.4, 'marker': marker, 'markersize': 4}
    axes.plot(times, curves[:, 0], label=label, **look)


def legend_above(axes: Axes) -> None:
    """Put the legend beside the title, where it hides no curve."""
    place = {'loc': 'lower right', 'bbox_to_anchor': (1, 0.96), 'borderaxespad': 0}
    axes.legend(**place, fontsize=8, ncols=2, columnspacing=1, handlelength=1.2)


def colors(count: int) -> list[str]:
    """Return colours for the curves of one chart; after the eighth they repeat."""
    return list(islice(cycle(SERIES), count))
