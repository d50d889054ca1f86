"""Evaluations side by side: what changed between them, and what is better."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from depth_ros.core.metrics.depth import ALIGNED
from depth_ros.evaluation.report.page import number
from depth_ros.evaluation.report.report import ALIGNMENTS, DEPTH_METRICS, row_name

LOW, HIGH = 'low', 'high'
"""Which values of a row are better; None where neither is."""

SHARED_COLUMNS = {
    'abs_rel': ('depth, Abs Rel', LOW),
    'abs_rel_published': ('depth as published, Abs Rel', LOW),
    'label_accuracy': ('labels right, share', HIGH),
    'position_error': ('position error, m', LOW),
    'photometric': ('photometric error', LOW),
    'inconsistency': ('depth inconsistency', LOW),
}
"""Columns of the tables of frames that are compared frame by frame."""


@dataclass(frozen=True)
class Run:
    """One evaluation.

    Attributes:
        name: Short, and different for each.
        found: Its metrics.json.
        frames: Columns of its table of frames, (N,) each; NaN = unknown.
        aligned, truth: Positions of its trajectories, (N, 3), N = 0 where unknown, metres.
    """

    name: str
    found: Mapping
    frames: Mapping[str, np.ndarray]
    aligned: np.ndarray
    truth: np.ndarray


def read_results(folders: Sequence[Path]) -> list[Run]:
    """Read evaluations, each with a name of its own.

    Args:
        folders: Folders that evaluate_bag has written, two or more.

    Raises:
        ValueError: if there are fewer than two folders, or one does not hold a result.
    """
    if len(folders) < 2:
        raise ValueError(f'{len(folders)} result to compare: name the folders of two or more')
    return [_read(folder, name) for folder, name in zip(folders, _names(folders), strict=True)]


def compare(runs: Sequence[Run]) -> dict:
    """Compare evaluations.

    Returns:
        `runs` (names), `notes`, `changed` (settings that differ: one value per run) and `rows`
        (`group`, `name`, `better`, `values` with None for unknown, and `best`: which runs have
        the best value).
    """
    return {
        'runs': [run.name for run in runs],
        'notes': _notes(runs),
        'changed': _changed(runs),
        'rows': [*_rows(runs), *_shared_rows(runs)],
    }


def comparison_text(found: Mapping) -> str:
    """Return the table for the terminal, from `write_comparison`; the best has a star."""
    names = [f'{row["group"]}: {row["name"]}' for row in found['rows']]
    first = max(map(len, names), default=0)
    cells = [
        [
            value_text(value) + ('*' if i in row['best'] else ' ')
            for i, value in enumerate(row['values'])
        ]
        for row in found['rows']
    ]
    widths = [
        max(len(name) + 1, *(len(line[i]) for line in cells)) + 2 if cells else len(name) + 3
        for i, name in enumerate(found['runs'])
    ]

    def line(name: str, values: Iterable[str]) -> str:
        return f'{name:{first}}' + ''.join(f'{v:>{w}}' for v, w in zip(values, widths, strict=True))

    lines = [line('', [f'{name} ' for name in found['runs']])]
    lines += [line(name, values) for name, values in zip(names, cells, strict=True)]
    if found['changed']:
        lines.append('Changed:')
        lines += [f'  {name}: {" | ".join(values)}' for name, values in found['changed'].items()]
    lines += [f'Note: {note}' for note in found['notes']]
    return '\n'.join(lines)


# Reading ----------------------------------------------------------------------------------------


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' names, with as many of their parents as it takes to tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ['/'.join(p[-depth:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    raise ValueError(f"'{folders[0]}' is compared with itself: name different folders")


def _read(folder: Path, name: str) -> Run:
    path = folder / 'metrics.json'
    try:
        found = json.loads(path.read_text())
        if not {'mode', 'recording', 'models', 'settings', 'frames'} <= found.keys():
            raise ValueError(f'{path.name} is of another program or version')
        return Run(
            name,
            found,
            _read_frames(folder / 'frames.csv'),
            _read_positions(folder / 'trajectory' / 'estimate_aligned.tum'),
            _read_positions(folder / 'trajectory' / 'truth.tum'),
        )
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(
            f"'{folder}' holds no result of an evaluation ({error}); name a folder "
            'that evaluate_bag has written'
        ) from error


def _read_frames(path: Path) -> dict[str, np.ndarray]:
    with path.open(newline='') as file:
        head, *rows = csv.reader(file)
    if 'stamp' not in head or any(len(row) != len(head) for row in rows):
        raise ValueError(f'{path.name} is not a table of frames, or is cut off')
    columns = [
        [float(cell) if cell else math.nan for cell in column] for column in zip(*rows, strict=True)
    ] or [[]] * len(head)
    return {name: np.array(values) for name, values in zip(head, columns, strict=True)}


def _read_positions(path: Path) -> np.ndarray:
    if not path.is_file():
        return np.empty((0, 3))
    rows = np.loadtxt(path, ndmin=2)
    if rows.size and rows.shape[1] != 8:
        raise ValueError(f'{path.name} is not a trajectory in the TUM format')
    return rows.reshape(-1, 8)[:, 1:4]


# Comparing --------------------------------------------------------------------------------------


def recording_name(run: Run) -> str:
    """Return the name of the recording that was evaluated."""
    return Path(run.found['recording']).resolve().name


def _notes(runs: Sequence[Run]) -> list[str]:
    """What makes the numbers less comparable than they look."""
    notes = []
    if len({recording_name(run) for run in runs}) > 1:
        notes.append(
            'the runs are of different recordings: differences are not those of the models alone'
        )
    elif len({tuple(_keys(run)) for run in runs}) > 1:
        counts = ', '.join(f'{len(run.frames["stamp"])} ({run.name})' for run in runs)
        notes.append(
            f'the runs judged different frames: {counts}; the rows of shared frames count '
            'only those that all have'
        )
    if len({run.found['mode'] for run in runs}) > 1:
        notes.append('offline and live runs measure different times')
    truths = {
        name: [run.name for run in runs if run.found.get(name)]
        for name in ('depth', 'semantics', 'trajectory', 'consistency')
    }
    for name, have in truths.items():
        if 0 < len(have) < len(runs):
            notes.append(f'{name} was judged in {", ".join(have)} only')
    return notes


def _changed(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Settings that differ: one text per run."""
    flat = []
    for run in runs:
        topics = {f'topic of {name}': topic for name, topic in run.found.get('topics', {}).items()}
        flat.append(
            dict(
                _flat(
                    {
                        'recording': run.found['recording'],
                        'mode': run.found['mode'],
                        'rate': run.found.get('rate'),
                        **topics,
                        **run.found['models'],
                        **run.found['settings'],
                    }
                )
            )
        )
    keys = dict.fromkeys(key for values in flat for key in values)
    texts = {key: [values.get(key, '–') for values in flat] for key in keys}
    return {key: values for key, values in texts.items() if len(set(values)) > 1}


def _flat(values: Mapping, prefix: str = '') -> Iterable[tuple[str, str]]:
    for key, value in values.items():
        name = f'{prefix}{key}'.replace('_', ' ')
        if isinstance(value, Mapping):
            yield from _flat(value, f'{name}: ')
        else:
            yield name, '–' if value is None else str(value)


def _row(group: str, name: str, values: Iterable[float | None], better: str | None) -> dict:
    values = list(values)
    known = [value for value in values if value is not None]
    best = []
    if better and known:
        top = value_text(min(known) if better == LOW else max(known))
        # Values that read the same are equally good; where all do, none is worth a mark.
        if any(value_text(value) != top for value in known):
            best = [i for i, value in enumerate(values) if value_text(value) == top]
    return {'group': group, 'name': name, 'better': better, 'values': values, 'best': best}


def value_text(value: float | None) -> str:
    """Return a number as it is shown; those that read the same are equally good."""
    if isinstance(value, int):
        return str(value)
    size = abs(value or 0)
    return number(value, '.4f' if size < 0.1 else '.3f' if size < 10 else '.1f')


def _rows(runs: Sequence[Run]) -> list[dict]:
    """Everything that any of the runs has measured."""
    rows = []

    def add(group: str, name: str, keys: Sequence[str], better: str | None) -> None:
        values = [at(run.found, keys) for run in runs]
        if any(value is not None for value in values):
            rows.append(_row(group, name, values, better))

    add('Frames', 'recorded', ('frames', 'recorded'), None)
    add('Frames', 'judged', ('frames', 'judged'), None)
    add('Frames', 'dropped, %', ('dropped_percent',), LOW)
    for key in _all_keys(runs, ('depth', 'rows')):
        # All seven metrics of the two general rows; one of each distance and class.
        chosen = DEPTH_METRICS if key in (*ALIGNED, 'as_published') else ('abs_rel',)
        for metric in chosen:
            add(
                'Depth',
                f'{row_name(key)}, {DEPTH_METRICS[metric]}',
                ('depth', 'rows', key, metric),
                HIGH if metric in ('a1', 'a2', 'a3') else LOW,
            )
    add('Depth', 'factor to the true scale', ('depth', 'scale_median'), None)
    add('Depth', 'spread of the factor', ('depth', 'scale_spread'), LOW)
    add('Depth', 'coverage', ('depth', 'coverage'), HIGH)
    add('Semantics', 'mean IoU', ('semantics', 'mean_iou'), HIGH)
    add('Semantics', 'pixels right, share', ('semantics', 'pixel_accuracy'), HIGH)
    for name in _all_keys(runs, ('semantics', 'iou')):
        add('Semantics', f'IoU of {name}', ('semantics', 'iou', name), HIGH)
    for measure in ('ate', 'rpe'):
        for key, name in ALIGNMENTS.items():
            add(
                'Trajectory',
                f'{measure.upper()}, {name}, m',
                ('trajectory', f'{measure}_{key}'),
                LOW,
            )
    add('Trajectory', 'rotation RPE, °', ('trajectory', 'rpe_rotation_deg'), LOW)
    add('Trajectory', 'KITTI drift, as it is, %', ('trajectory', 't_err_se3'), LOW)
    add('Trajectory', 'KITTI drift, scaled, %', ('trajectory', 't_err_sim3'), LOW)
    add('Trajectory', 'KITTI drift of rotation, °/100 m', ('trajectory', 'r_err'), LOW)
    add('Trajectory', 'scale of the alignment', ('trajectory', 'scale'), None)
    add('Consistency', 'photometric error', ('consistency', 'photometric'), LOW)
    add('Consistency', 'explained, %', ('consistency', 'explained_percent'), HIGH)
    add('Consistency', 'depth inconsistency', ('consistency', 'inconsistency'), LOW)
    add(
        'Consistency', 'spread of scale steps, %', ('consistency', 'scale_step_spread_percent'), LOW
    )
    add('Consistency', 'loop, translation, %', ('consistency', 'loop_translation_percent'), LOW)
    add('Consistency', 'loop, rotation, °', ('consistency', 'loop_rotation_deg'), LOW)
    for node in ('perception', 'odometry'):
        for key, name in (('p50', 'median'), ('p95', '95 %'), ('p99', '99 %')):
            add('Time', f'{node}, {name}, ms', ('latency_ms', node, key), LOW)
    add('Time', 'age, median, ms', ('age_ms', 'p50'), LOW)
    add('Time', 'evaluation, frames/s', ('speed', 'frames_per_s'), HIGH)
    return rows


def _all_keys(runs: Sequence[Run], keys: Sequence[str]) -> list[str]:
    """Names that any of the runs has under nested keys, in order."""
    return list(dict.fromkeys(name for run in runs for name in at(run.found, keys) or ()))


def at(found: Mapping, keys: Sequence[str]) -> Any:
    """Return what lies under nested keys; None where one is missing or null."""
    value: Any = found
    for key in keys:
        value = (value or {}).get(key)
    return value


def _keys(run: Run) -> list[int]:
    """Stamps in whole milliseconds, which tell frames apart."""
    return np.round(run.frames['stamp'] * 1e3).astype(np.int64).tolist()


def _shared_rows(runs: Sequence[Run]) -> list[dict]:
    """Means over the frames for which all runs know a value; none where all frames are shared."""
    keys = [_keys(run) for run in runs]
    if len(set(map(tuple, keys))) == 1 or len({recording_name(run) for run in runs}) > 1:
        return []
    rows = []
    for column, (name, better) in SHARED_COLUMNS.items():
        known = [
            {
                key: value
                for key, value in zip(stamps, run.frames.get(column, ()), strict=False)
                if math.isfinite(value)
            }
            for stamps, run in zip(keys, runs, strict=True)
        ]
        shared = set.intersection(*map(set, known))
        if shared:
            rows.append(
                _row(
                    'Shared frames',
                    f'{name} ({len(shared)} frames)',
                    [float(np.mean([k[s] for s in shared])) for k in known],
                    better,
                )
            )
    return rows
