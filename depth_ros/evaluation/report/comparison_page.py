"""The page of evaluations side by side: `comparison.html`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from depth_ros.evaluation.report.charts import (
    Chart,
    chart,
    colors,
    draw_over_time,
    draw_paths,
    legend_above,
    stacked,
)
from depth_ros.evaluation.report.comparison import (
    SHARED_COLUMNS,
    Run,
    at,
    compare,
    read_results,
    recording_name,
    value_text,
)
from depth_ros.evaluation.report.figures import distance_bands
from depth_ros.evaluation.report.page import number, render, require_page_packages
from depth_ros.files import write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TITLES = {
    'changed': 'What changed',
    'results': 'Results',
    'distance': 'Depth error over distance',
    'time': 'Over time',
    'trajectory': 'Trajectories',
}


def write_comparison(out: Path, folders: Sequence[Path]) -> dict:
    """Compare evaluations; writes `comparison.html` and `comparison.json`.

    Args:
        out: Folder to write to; it is made where it is missing.
        folders: Folders of two or more results.

    Returns:
        What `comparison.json` holds: that of `compare`, and `folders`.

    Raises:
        MissingPackageError: if Jinja2 or matplotlib is not installed.
        ValueError: if there are fewer than two folders, or one does not hold a result.
    """
    require_page_packages()
    runs = read_results(folders)
    found = {**compare(runs), 'folders': [str(folder) for folder in folders]}
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=2, allow_nan=False) + '\n'
    write_file(out / 'comparison.json', text)
    write_file(out / 'comparison.html', _page(found, runs))
    return found


def _page(found: Mapping, runs: Sequence[Run]) -> str:
    names = {recording_name(run) for run in runs}
    same = len(names) == 1  # recordings that differ are not drawn over each other
    charts = {
        'distance': _distance_chart(runs),
        'time': _time_chart(runs) if same else None,
        'trajectory': _trajectory_chart(runs) if same else None,
    }
    return render(
        'comparison',
        f'depth_ros: {" and ".join(found["runs"])}',
        ' vs. '.join(found['runs']),
        {anchor: title for anchor, title in _TITLES.items() if charts.get(anchor, True)},
        recording=names.pop() if same else None,
        found=found,
        charts=charts,
        text=value_text,
        change=_change,
    )


def _change(row: Mapping, value: float | None) -> str:
    """How a value differs from that of the first run, in percent."""
    first = row['values'][0]
    if not row['better'] or not first or value is None or value_text(value) == value_text(first):
        return ''
    return f'{number(100 * (value / first - 1), "+.1f")} %'


def _distance_chart(runs: Sequence[Run]) -> Chart | None:
    curves = {run.name: distance_bands(at(run.found, ('depth', 'rows')) or {}) for run in runs}
    curves = {name: bands for name, bands in curves.items() if bands}
    if not curves:
        return None

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for (name, bands), color in zip(curves.items(), colors(len(curves)), strict=True):
            middles = [(low + high) / 2 for low, high, _ in bands]
            errors = [error for *_, error in bands]
            axes.plot(middles, errors, 'o-', color=color, linewidth=1.8, markersize=5, label=name)
        edges = {edge for bands in curves.values() for *band, _ in bands for edge in band}
        axes.set_xticks(sorted(edges))
        axes.set_ylim(bottom=0)
        axes.set_xlabel('true distance, m')
        axes.set_ylabel('Abs Rel')
        axes.legend(loc='best', fontsize=9)

    return chart(draw, (11, 3.6), 'depth error over distance')


def _time_chart(runs: Sequence[Run]) -> Chart | None:
    start = min(run.frames['stamp'].min(initial=math.inf) for run in runs)
    panels = []
    for column, (title, _) in SHARED_COLUMNS.items():
        known = [
            (run, color)
            for run, color in zip(runs, colors(len(runs)), strict=True)
            if np.isfinite(run.frames.get(column, np.empty(0))).any()
        ]
        if len(known) > 1:
            panels.append((column, title, known))
    if not panels:
        return None

    def draw(figure: Figure) -> None:
        drawn = stacked(figure, [title for _, title, _ in panels])
        for axes, (column, _, known) in zip(drawn, panels, strict=True):
            for run, color in known:
                seconds = run.frames['stamp'] - start
                draw_over_time(axes, seconds, run.frames[column], color, run.name)
        legend_above(drawn[0])

    return chart(draw, (11, 1.25 * len(panels) + 0.5), 'errors over time')


def _trajectory_chart(runs: Sequence[Run]) -> Chart | None:
    paths = {run.name: run.aligned for run in runs if len(run.aligned)}
    if not paths:
        return None
    truth = next((run.truth for run in runs if len(run.truth)), np.empty((0, 3)))
    return chart(
        lambda figure: draw_paths(figure.add_subplot(), truth, paths, 'm'),
        (11, 5),
        'trajectories from above',
    )
