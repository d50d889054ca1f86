"""What an evaluation leaves behind: files of numbers and trajectories, and a summary."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from depth_ros.core.metrics.baselines import baseline_lines
from depth_ros.core.metrics.depth import DepthMetrics
from depth_ros.core.se3 import quaternion_from_rotation
from depth_ros.evaluation.frame_evaluator import COLUMNS, Evaluation
from depth_ros.files import write_file

GAP = 3.0
"""How many usual periods a pause between images must last to count as a gap."""


def percentiles(values: np.ndarray | None) -> dict[str, float] | None:
    """Return p50, p95, p99 and max of the finite values (N,), None if there are none."""
    values = np.empty(0) if values is None else values[np.isfinite(values)]
    if not values.size:
        return None
    p50, p95, p99 = np.percentile(values, (50, 95, 99))
    return {'p50': float(p50), 'p95': float(p95), 'p99': float(p99), 'max': float(values.max())}


def timing(stamps: Sequence[int]) -> dict:
    """Return how images with these stamps (ns) follow each other: period, gaps, clock jumps."""
    steps = np.diff(np.asarray(stamps, np.int64)) / 1e9
    forward = steps[steps > 0]
    period = float(np.median(forward)) if len(forward) else None
    gaps = []
    if period:
        gaps = [
            [(stamps[i] - stamps[0]) / 1e9, float(steps[i])]
            for i in np.flatnonzero(steps > GAP * period).tolist()
        ]
    return {
        'duration_s': float(forward.sum()),
        'median_period_s': period,
        'gaps': gaps,
        'clock_jumps': int((steps < 0).sum()),
        'duplicate_stamps': int((steps == 0).sum()),
    }


def write_results(out: Path, evaluation: Evaluation, found: dict) -> None:
    """Write frames.csv, trajectory/ and, last, metrics.json."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    columns = [c for c in COLUMNS if c in evaluation.frames]
    writer.writerow(columns)
    for row in zip(*(evaluation.frames[c].tolist() for c in columns), strict=True):
        writer.writerow(['' if math.isnan(v) else repr(v) for v in row])
    write_file(out / 'frames.csv', text.getvalue())
    stamps, poses, truth = evaluation.poses
    if len(poses):
        folder = out / 'trajectory'
        folder.mkdir(exist_ok=True)
        known = np.isfinite(truth).all(axis=(1, 2))
        for name, chosen, matrices in (
            ('estimate', np.ones(len(poses), bool), poses),
            ('truth', known, truth),
        ):
            if chosen.any():
                write_file(
                    folder / f'{name}.tum', tum_text(matrices[chosen], _seconds(stamps[chosen]))
                )
                write_file(folder / f'{name}.kitti', kitti_text(matrices[chosen]))
        if len(evaluation.aligned_poses):
            write_file(
                folder / 'estimate_aligned.tum',
                tum_text(evaluation.aligned_poses, _seconds(stamps[known])),
            )
    write_file(out / 'metrics.json', json.dumps(found, indent=2, allow_nan=False) + '\n')


def _seconds(stamps: np.ndarray) -> list[str]:
    """Return stamps in ns as seconds, with all of their digits."""
    return [f'{s // 10**9}.{s % 10**9:09d}' for s in stamps.tolist()]


def kitti_text(poses: np.ndarray) -> str:
    """Return poses (N, 4, 4) in KITTI's format: a line of twelve numbers each."""
    return ''.join(' '.join(f'{v:.9g}' for v in p[:3].ravel()) + '\n' for p in poses)


def tum_text(poses: np.ndarray, times: Iterable[str]) -> str:
    """Return poses (N, 4, 4) in TUM's format: a line each of time, position and quaternion x y z w.

    Args:
        poses: T_world_camera 4x4 each, metres.
        times: Time of each pose in seconds, as text with all of its digits.
    """
    return ''.join(
        ' '.join([time, *(f'{v:.9g}' for v in (*p[:3, 3], *quaternion_from_rotation(p[:3, :3])))])
        + '\n'
        for p, time in zip(poses, times, strict=True)
    )


TRAJECTORY_NUMBERS = {
    'ate_se3': 'ATE SE3, m',
    'ate_sim3': 'ATE Sim3, m',
    't_err_se3': 't_err, %',
    'r_err': 'r_err, deg/100 m',
}
"""Numbers of a trajectory that a summary shows of something trivial, and what it calls them."""


def scale_lines(scale: Mapping | None) -> list[str]:
    """Return the lines of a summary on where metres come from, and how good each source is."""
    if not scale:
        return []
    lines = [f'Metres      from the {scale["source"]}']
    for name, row in scale['sources'].items():
        line = f'            scale {name}: {row["median"]:.3g} +- {row["sigma_percent"]:.0f} %'
        line += f', known in {row["known_percent"]:.0f} % of the frames'
        if 'error_percent' in row:
            line += (
                f'; error {row["error_percent"]:+.1f} %, mean {row["mean_abs_error_percent"]:.1f}'
                f' %, within 7 % in {row["within_7_percent"]:.0f} %'
            )
        lines.append(line)
    return lines


def summary_text(found: dict) -> str:
    """Return the summary for the terminal."""
    frames = found['frames']
    line = f'Frames      {frames["recorded"]} in, {frames["judged"]} out'
    if found['dropped_percent'] is not None:
        line += f', {found["dropped_percent"]:.1f} % dropped'
    lines = [f'{line}; {found["odometry"]["poses"]} poses']
    lines += [f'Skipped     {count}: {reason}' for reason, count in frames['skipped'].items()]
    if found['speed']:
        lines.append(
            f'Speed       {found["speed"]["frames_per_s"]:.1f} frames/s, without '
            f'inference {found["speed"]["frames_per_s_without_inference"]:.0f}'
        )
    title = 'Latency' if found['mode'] == 'live' else 'Inference'
    for name, values in {**found['latency_ms'], 'age of data': found['age_ms']}.items():
        if values:
            lines.append(
                f'{title:11} {name}: p50 {values["p50"]:.0f} ms, p95 {values["p95"]:.0f} '
                f'ms, p99 {values["p99"]:.0f} ms, max {values["max"]:.0f} ms'
            )
            title = ''
    if depth := found['depth']:
        names = DepthMetrics._fields
        lines.append('Depth'.ljust(36) + ''.join(f'{name:>9}' for name in names))
        baselines = {f'  {name}': row for name, row in depth.get('baselines', {}).items()}
        for name, row in {**depth['rows'], **baselines}.items():
            lines.append(f'            {name:24}'[:36] + ''.join(f'{row[n]:9.3f}' for n in names))
        lines.append(
            f'            scale {depth["scale_median"]:.3g}, spread '
            f'{depth["scale_spread"]:.3f}, published where true depth is known '
            f'{100 * depth["coverage"]:.0f} %'
        )
    lines += scale_lines(found.get('scale'))
    if semantics := found['semantics']:
        road = semantics['iou'].get('road')
        lines.append(
            ('Semantics   ' + (f'road IoU {road:.3f}, ' if road is not None else ''))
            + f'mean IoU {semantics["mean_iou"]:.3f}'
            + f'; one class everywhere {semantics["baselines"]["one_class"]["mean_iou"]:.3f}'
        )
    if t := found['trajectory']:
        lines.append(
            f'Trajectory  ATE {t["ate_se3"]:.2f} m (SE3), {t["ate_sim3"]:.2f} m (Sim3, '
            f'scale {t["scale"]:.3g}) over {t["length"]:.1f} m, {t["poses"]} of '
            f'{found["odometry"]["poses"]} poses'
        )
        lines += [
            f'            {line}' for line in baseline_lines(t['baselines'], TRAJECTORY_NUMBERS)
        ]
    if c := found['consistency']:
        parts = []
        if 'explained_percent' in c:
            parts.append(
                f'depth and motion explain {c["explained_percent"]:.0f} % of the change '
                'between frames'
            )
        if 'inconsistency' in c:
            parts.append(f'depths disagree by {100 * c["inconsistency"]:.1f} %')
        if 'loop_translation_percent' in c:
            parts.append(
                f'loops do not close by {c["loop_translation_percent"]:.1f} %, '
                f'{c["loop_rotation_deg"]:.2f} deg'
            )
        lines.append('Consistency ' + '; '.join(parts))
    lines += [f'Note        {note}' for note in found['notes']]
    return '\n'.join(lines)
