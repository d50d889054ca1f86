"""Charts of one evaluation's report."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from depth_ros.evaluation.report.charts import (
    BLUE,
    ORANGE,
    SERIES,
    Chart,
    chart,
    draw_over_time,
    draw_paths,
    legend_above,
    save,
    stacked,
)
from depth_ros.evaluation.report.gallery import Gallery

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from depth_ros.evaluation.frame_evaluator import Evaluation
    from depth_ros.inference.contract import ModelContract

AGE = 'age when received'

Bands = Sequence[tuple[float, float, float]]
"""Nearest and farthest distance, metres, and the Abs Rel between them."""

_PANELS = (
    ('depth, Abs Rel', {'abs_rel': 'median-scaled', 'abs_rel_published': 'as published'}),
    ('scale to the truth', {'scale': ''}),
    (
        'error of the scale, by source',
        {
            'scale_used_error': 'used',
            'scale_model_error': 'model',
            'scale_height_error': 'height',
            'scale_odometry_error': 'odometry',
        },
    ),
    ('labels right, share', {'label_accuracy': ''}),
    ('position error, m', {'position_error': ''}),
    ('photometric error', {'photometric': 'moved', 'photometric_static': 'still'}),
    ('depth inconsistency', {'inconsistency': ''}),
    ('scale step', {'scale_step': ''}),
)
"""What is drawn over time: titles, and labels of the frame table's columns."""


def distance_bands(rows: Mapping[str, Mapping]) -> Bands:
    """Return the rows of the depth table that are distance bands."""
    found = []
    for key, row in rows.items():
        match = re.fullmatch(r'(\d+)_to_(\d+)m', key)
        if match and row['abs_rel'] is not None:
            found.append((float(match[1]), float(match[2]), row['abs_rel']))
    return found


def bands_chart(found: Mapping) -> Chart | None:
    """Draw the depth error over distance; None without distance bands."""
    bands = distance_bands((found.get('depth') or {}).get('rows', {}))
    if not bands:
        return None

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        look = {'color': BLUE, 'alpha': 0.8, 'edgecolor': 'white', 'linewidth': 2}
        for low, high, error in bands:
            axes.bar(low, error, width=high - low, align='edge', **look)
            axes.annotate(
                f'{error:.3f}',
                ((low + high) / 2, error),
                (0, 2),
                textcoords='offset points',
                ha='center',
                va='bottom',
                fontsize=9,
            )
        axes.set_xticks(sorted({edge for low, high, _ in bands for edge in (low, high)}))
        axes.set_xlabel('true distance, m')
        axes.set_ylabel('Abs Rel')
        axes.margins(y=0.12)
        axes.grid(axis='x', visible=False)

    return chart(draw, (5.2, 3.2), 'depth error over distance')


def time_chart(
    found: Mapping, frames: Mapping[str, np.ndarray], worst: Sequence[float]
) -> Chart | None:
    """Draw each frame's numbers over time; None where none is known.

    Args:
        found: What `metrics.json` holds.
        frames: Columns of the frame table, (N,) each.
        worst: Times of the worst frames since the first one, seconds.
    """
    panels = []
    for title, columns in _PANELS:
        known = {label: frames.get(name, np.empty(0)) for name, label in columns.items()}
        known = {label: values for label, values in known.items() if np.isfinite(values).any()}
        if known:
            panels.append((title, known))
    if not panels:
        return None
    seconds = frames['stamp'] - frames['stamp'][0]
    gaps = (found.get('timing') or {}).get('gaps', [])

    def draw(figure: Figure) -> None:
        drawn = stacked(figure, [title for title, _ in panels])
        for axes, (_, curves) in zip(drawn, panels, strict=True):
            for begin, length in gaps:
                axes.axvspan(begin, begin + length, color='#f1d9c3', linewidth=0)
            for (label, values), color in zip(curves.items(), SERIES, strict=False):
                draw_over_time(axes, seconds, values, color, label)
            if len(curves) > 1:
                legend_above(axes)
        for second in worst:
            drawn[0].axvline(second, color=ORANGE, linewidth=0.9, linestyle=':')
        drawn[-1].set_xlim(0, max(seconds[-1], 1e-3))

    return chart(draw, (11, 1.25 * len(panels) + 0.5), 'errors over time')


def trajectory_chart(
    evaluation: Evaluation, contracts: Mapping[str, ModelContract]
) -> Chart | None:
    """Draw the trajectory from above; None without one."""
    if len(evaluation.estimate) < 2:
        return None
    return chart(
        lambda figure: _draw_trajectory(figure.add_subplot(), evaluation, contracts),
        (7, 4.4),
        'trajectory from above',
    )


def _draw_trajectory(
    axes: Axes, evaluation: Evaluation, contracts: Mapping[str, ModelContract]
) -> None:
    aligned = len(evaluation.aligned) > 1
    paths = (
        {'odometry, aligned': evaluation.aligned} if aligned else {'odometry': evaluation.estimate}
    )
    metric = aligned or contracts['odometry_node'].metric
    draw_paths(axes, evaluation.truth, paths, 'm' if metric else 'model units')


def latency_chart(found: Mapping, frames: Mapping[str, np.ndarray]) -> Chart | None:
    """Draw how often each latency occurs; None where none is known."""
    columns = {'perception_ms': 'perception', 'odometry_ms': 'odometry', 'age_ms': AGE}
    shown = {}
    for column, label in columns.items():
        values = frames.get(column, np.empty(0))
        if np.isfinite(values).any():
            shown[label] = values[np.isfinite(values)]
    if not shown:
        return None
    top = max(float(np.percentile(v, 99.5)) for v in shown.values()) * 1.1
    bins = np.linspace(0, top, 41).tolist()
    live = found['mode'] == 'live'

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for (name, times), color in zip(shown.items(), SERIES, strict=False):
            # At normal speed the age is the latency: its outline leaves the other visible.
            kind = 'step' if name == AGE else 'bar'
            look = {'color': color, 'alpha': 0.7, 'linewidth': 1.5}
            axes.hist(np.minimum(times, top), bins, label=name, histtype=kind, **look)
            axes.axvline(float(np.median(times)), color=color, linewidth=1.2, linestyle='--')
        axes.set_xlabel(
            'from publishing the image to receiving the output, ms'
            if live
            else 'inference of a frame, ms'
        )
        axes.set_ylabel('frames')
        axes.grid(axis='x', visible=False)
        axes.legend(loc='best', fontsize=9)

    return chart(draw, (7, 3.4), 'histogram of latencies')


def overview(evaluation: Evaluation, contracts: Mapping[str, ModelContract]) -> bytes:
    """Return the frame in the middle and the trajectory in one JPEG."""
    frames = [p for p in evaluation.examples if not p.rank] or evaluation.examples
    example = frames[len(frames) // 2]
    gallery = Gallery([example], 0, contracts.get('perception_node'))
    images = gallery.images(example)
    panels = [(n.lower(), images[n]) for n in ('Camera', 'Depth', 'Masks') if n in images]
    moving = len(evaluation.estimate) > 1
    rows = (len(panels) + moving + 1) // 2

    def draw(figure: Figure) -> None:
        for index, (title, image) in enumerate(panels):
            axes = figure.add_subplot(rows, 2, index + 1)
            axes.imshow(image)
            axes.set_title(title, fontsize=11, loc='left')
            axes.axis('off')
        if moving:
            axes = figure.add_subplot(rows, 2, len(panels) + 1)
            _draw_trajectory(axes, evaluation, contracts)
            axes.set_title('trajectory from above', fontsize=11, loc='left')

    height = 6 * example.rgb.shape[0] / example.rgb.shape[1] + 0.35
    return save(draw, (12, rows * height), format='jpeg', dpi=110, pil_kwargs={'quality': 88})
