"""The report of one evaluation: `report.html` and its overview picture."""

from __future__ import annotations

import os
import platform
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from depth_ros.core.metrics.depth import ALIGNED
from depth_ros.evaluation.report import figures
from depth_ros.evaluation.report.gallery import Gallery
from depth_ros.evaluation.report.page import render
from depth_ros.files import write_file
from depth_ros.inference.runtimes import ONNX_RUNTIMES

if TYPE_CHECKING:
    from depth_ros.evaluation.frame_evaluator import Evaluation
    from depth_ros.inference.contract import ModelContract

DEPTH_METRICS = {
    'abs_rel': 'Abs Rel',
    'sq_rel': 'Sq Rel, m',
    'rmse': 'RMSE, m',
    'rmse_log': 'RMSE log',
    'a1': 'δ < 1.25',
    'a2': 'δ < 1.25²',
    'a3': 'δ < 1.25³',
}
"""The seven depth metrics and how they are written."""

ALIGNMENTS = {'se3': 'rigid (SE3)', 'sim3': 'with scale (Sim3)', 'scale': 'scale only'}
"""How a trajectory is fitted to the truth before it is judged, and how that is written."""

MAX_CONFUSION = 20
"""Largest number of classes for which a confusion matrix is readable."""

_TITLES = {
    'frames': 'Frames',
    'worst': 'Worst frames',
    'depth': 'Depth against ground truth',
    'scale': 'Scale',
    'time': 'Over time',
    'trajectory': 'Trajectory',
    'semantics': 'Semantics against ground truth',
    'consistency': 'Consistency',
    'latency': 'Speed',
    'made': 'How this was made',
}


def write_report(
    out: Path,
    found: Mapping,
    frames: Mapping[str, np.ndarray],
    evaluation: Evaluation,
    contracts: Mapping[str, ModelContract],
) -> None:
    """Write `report.html`, and `overview.jpg` with one frame and the trajectory.

    Args:
        out: Folder to write to.
        found: What `metrics.json` holds.
        frames: Columns of the frame table, (N,) each; NaN = unknown.
        evaluation: Pictures and trajectories.
        contracts: The models' contracts by node; a node that was not judged is missing.

    Raises:
        MissingPackageError: if Jinja2 or matplotlib is not installed.
    """
    write_file(out / 'report.html', _page(found, frames, evaluation, contracts))
    if evaluation.examples:
        write_file(out / 'overview.jpg', figures.overview(evaluation, contracts))


def row_name(key: str) -> str:
    """Return how a row of the depth table is called on a page."""
    name = key.removeprefix('class:').replace('_50m', ', up to 50 m').replace('_', ' ')
    name = re.sub(r'^(\d+) to (\d+)m$', r'\1 to \2 m', name)
    return name.replace('median scaled', 'median-scaled')


def _page(
    found: Mapping,
    frames: Mapping[str, np.ndarray],
    evaluation: Evaluation,
    contracts: Mapping[str, ModelContract],
) -> str:
    start = frames['stamp'][0] if len(frames['stamp']) else 0.0
    semantics = found.get('semantics') or {}
    gallery = Gallery(
        evaluation.examples,
        start,
        contracts.get('perception_node'),
        semantics.get('classes', ()),
    )
    examples, worst = gallery.examples(), gallery.worst()
    charts = {
        'bands': figures.bands_chart(found),
        'time': figures.time_chart(found, frames, [row.time for row in worst]),
        'trajectory': figures.trajectory_chart(evaluation, contracts),
        'latency': figures.latency_chart(found, frames),
    }
    times = {**(found.get('latency_ms') or {}), 'age': found.get('age_ms')}
    times = {name: values for name, values in times.items() if values}
    speed = (found.get('speed') or {}).get('frames_per_s')
    has = {
        'frames': examples,
        'worst': worst,
        'depth': found.get('depth'),
        'scale': found.get('scale'),
        'time': charts['time'],
        'trajectory': charts['trajectory'],
        'semantics': semantics,
        'consistency': found.get('consistency'),
        'latency': charts['latency'] or times or found.get('stages_ms') or speed,
        'made': True,
    }
    name = Path(found['recording']).resolve().name
    return render(
        'report',
        f'depth_ros: {name}',
        _heading(contracts),
        _sections(found, has),
        name=name,
        found=defaultdict(lambda: None, found),  # a template may ask for what is not there
        live=found['mode'] == 'live',
        unit='m' if _metric_odometry(contracts) else 'model units',
        size=evaluation.examples[0].rgb.shape[1::-1] if evaluation.examples else None,
        notes=evaluation.notes,
        examples=examples,
        worst=worst,
        bars=gallery.bars(),
        legend=gallery.legend(),
        charts=charts,
        depth_metrics=DEPTH_METRICS,
        row_name=row_name,
        aligned=next((n for n in ALIGNED if n in (found.get('depth') or {}).get('rows', ())), None),
        by_class=_by_class(found),
        confusion=_confusion(semantics) if semantics else None,
        alignments=ALIGNMENTS,
        times=times,
        made=[*_made(found, contracts)],
    )


def _sections(found: Mapping, has: Mapping[str, object]) -> dict[str, str]:
    """Titles of the sections that have something to show, by anchor, in order."""
    titles = {anchor: title for anchor, title in _TITLES.items() if has[anchor]}
    if found['mode'] == 'live' and 'latency' in titles:
        titles['latency'] = 'Latency'
    truth = found.get('depth') or found.get('semantics') or found.get('trajectory')
    if not truth and 'consistency' in titles:  # it is the only judgement there is
        titles = {'consistency': titles.pop('consistency'), **titles}
    return titles


def _heading(contracts: Mapping[str, ModelContract]) -> str:
    perception = contracts.get('perception_node')
    names = {'depth': 'depth', 'labels': 'masks'}
    out = [n for output, n in names.items() if perception and output in perception.outputs]
    if 'odometry_node' in contracts:
        out.append('odometry')
    return f'One camera in; {", ".join(out[:-1])}{" and " if out[1:] else ""}{out[-1]} out'


def _metric_odometry(contracts: Mapping[str, ModelContract]) -> bool:
    return 'odometry_node' in contracts and contracts['odometry_node'].metric


def _by_class(found: Mapping) -> dict[str, float]:
    """Abs Rel of each class, the best first."""
    rows = (found.get('depth') or {}).get('rows', {})
    errors = {
        row_name(key): row['abs_rel']
        for key, row in rows.items()
        if key.startswith('class:') and row['abs_rel'] is not None
    }
    return dict(sorted(errors.items(), key=lambda item: item[1]))


def _confusion(semantics: Mapping) -> tuple[list[str], list[tuple[str, np.ndarray]]] | None:
    """The classes that are predicted, and how the pixels of each true class are shared among them.

    None where the matrix would be too large to read, or is of one class.
    """
    counts = np.array(semantics['confusion'], np.float64)
    names = [*semantics['classes'], 'unlabelled'][: counts.shape[1]]
    rows, columns = np.flatnonzero(counts.sum(axis=1)), np.flatnonzero(counts.sum(axis=0))
    if not 1 < len(rows) <= MAX_CONFUSION or len(columns) > MAX_CONFUSION + 1:
        return None
    shares = counts[rows][:, columns] / counts[rows].sum(axis=1, keepdims=True)
    return [names[c] for c in columns], [(names[r], s) for r, s in zip(rows, shares, strict=True)]


# How the report was made ------------------------------------------------------------------------


def _made(found: Mapping, contracts: Mapping[str, ModelContract]) -> Iterator[tuple[str, str]]:
    """Names and values of everything that decided the numbers."""
    yield 'recording', found['recording']
    for name, topic in found['topics'].items():
        if topic:
            yield f'topic of {name}', str(topic)
    yield from _timing(found.get('timing') or {})
    for reason, count in found['frames'].get('skipped', {}).items():
        yield f'skipped: {reason}', str(count)
    if found['mode'] == 'live':
        late = found.get('player_latest_ms')
        text = f'at {found["rate"]:g} times its speed'
        yield 'replay', text if late is None else f'{text}; at worst {late:.0f} ms late'
    for node, contract in contracts.items():
        yield node, _model(found['models'][node], contract)
        known = {key: value for key, value in contract.provenance.items() if value is not None}
        for key, value in known.items():
            yield f'{contract.name}: {key}', str(value)
    for name, value in found['settings'].items():
        if value is not None:
            yield name.replace('_', ' '), _plain(value)
    yield 'machine', f'{_processor()}, {os.cpu_count()} processors, {platform.system()}'
    yield 'software', f'Python {platform.python_version()}, {", ".join(_versions())}'
    yield 'made', datetime.now().astimezone().strftime('%Y-%m-%d %H:%M %Z')


def _timing(timing: Mapping) -> Iterator[tuple[str, str]]:
    if gaps := timing.get('gaps'):
        begin, length = max(gaps, key=lambda gap: gap[1])
        yield 'gaps', f'{len(gaps)}; the longest of {length:.2f} s at {begin:.1f} s'
    if timing.get('clock_jumps'):
        yield 'jumps of the clock', str(timing['clock_jumps'])
    if timing.get('duplicate_stamps'):
        yield 'stamps that occur twice', str(timing['duplicate_stamps'])


def _model(model: Mapping, contract: ModelContract) -> str:
    scale = 'up to scale and shift' if contract.affine_invariant else 'up to scale'
    parts: Sequence[object] = (
        contract.name,
        model.get('version'),
        f'{contract.input_width}x{contract.input_height}',
        'metric' if contract.metric else scale,
        model.get('backend'),
        f'{model["threads"]} threads' if model.get('threads') else None,
        model['path'],
    )
    return ', '.join(str(part) for part in parts if part)


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    return f'{value:g}' if isinstance(value, float) else str(value)


def _processor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.machine()


def _versions() -> list[str]:
    found = []
    for name in ('rclpy', *ONNX_RUNTIMES, 'numpy', 'rosbags'):
        try:
            found.append(f'{name} {version(name)}')
        except PackageNotFoundError:
            continue
    return found
