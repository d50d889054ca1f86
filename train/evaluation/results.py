"""What an evaluation leaves behind: a table, files of numbers, trajectories and pictures."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from depth_ros.core.colors import color_depth, color_error, color_labels
from depth_ros.core.metrics.baselines import baseline_lines
from depth_ros.core.metrics.depth import DepthMetrics, aligned_depth, prepare_depth
from depth_ros.core.metrics.trajectory import SnippetMetrics
from depth_ros.evaluation.results import TRAJECTORY_NUMBERS, kitti_text, tum_text
from depth_ros.files import write_file
from depth_ros.inference.classes import ClassMap
from train.data.sequences import read_map, resize_map
from train.evaluation.frames import EvaluatedFrame, fitted_image
from train.evaluation.predict import Predictor
from train.evaluation.protocol import Protocol
from train.evaluation.scores import SequenceScores


def table(report: Mapping) -> str:
    """The report as text."""
    lines = []
    if 'depth' in report:
        depth = report['depth']
        lines.append(
            f'depth, {depth["images"]} images'.ljust(24)
            + ''.join(f'{n:>10}' for n in DepthMetrics._fields)
        )
        lines += [
            f'  {name}'.ljust(24) + ''.join(f'{v:10.3f}' for v in row.values())
            for name, row in depth.items()
            if isinstance(row, dict) and name not in ('protocol', 'baselines')
        ]
        lines += [
            f'  trivial: {name}'.ljust(24)
            + ''.join(f'{row[n]:10.3f}' for n in DepthMetrics._fields)
            for name, row in depth['baselines'].items()
        ]
        if 'as_published' in depth:
            lines.append(f'  metres as published: of {depth["metres"]}')
        lines.append(f'  scale {depth["scale_median"]:.4g}, spread {depth["scale_spread"]:.3f}')
    if 'semantics' in report:
        semantics = report['semantics']
        lines.append(
            f'semantics, {semantics["images"]} images, mean IoU '
            f'{semantics["mean_iou"]:.3f}, pixels {semantics["pixel_accuracy"]:.3f}; one class '
            f'everywhere {semantics["baselines"]["one_class"]["mean_iou"]:.3f}'
        )
        lines += [f'  {n:<22}{v:10.3f}' for n, v in semantics['iou'].items()]
    for name, numbers in report.get('trajectories', {}).items():
        if 'farthest' in numbers:
            lines.append(
                f'standing {name}, {numbers["frames"]} frames: at most {numbers["farthest"]:.4f} m '
                f'and {numbers["turned_deg"]:.4f} degrees away'
            )
            continue
        lines.append(
            f'trajectory {name}, {numbers["length"]:.1f} m, {numbers["frames"]:.0f} '
            f'frames, scale {numbers["scale"]:.4g}'
        )
        lines.append(' ' * 24 + ''.join(f'{n:>10}' for n in ('SE(3)', 'Sim(3)', 'scale*')))
        for kind, unit in (('ate', 'm'), ('rpe', 'm'), ('t_err', '%')):
            keys = [f'{kind}_{alignment}' for alignment in ('se3', 'sim3', 'scale')]
            values = [numbers[key] for key in keys if key in numbers]
            if values:
                lines.append(f'  {kind}, {unit}'.ljust(24) + ''.join(f'{v:10.3f}' for v in values))
        lines.append('  * the first pose is laid on the true one, and only the scale is fitted')
        if 'r_err' in numbers:
            lines.append(
                f'  r_err {numbers["r_err"]:.3f} deg/100 m, {numbers["segments"]:.0f} segments'
            )
        if 'ate_first' in numbers:
            lines += _refined_lines(numbers)
        if 'snippet_ate' in numbers:
            lines.append(
                f'  5-frame snippets: ATE {numbers["snippet_ate"]:.4f} +- '
                f'{numbers["snippet_ate_std"]:.4f} m, RE {numbers["snippet_re"]:.4f} +- '
                f'{numbers["snippet_re_std"]:.4f} rad'
            )
        lines += [
            f'  beside: {line}' for line in baseline_lines(numbers['baselines'], TRAJECTORY_NUMBERS)
        ]
    if 'not_evaluated' in report:
        lines.append('not evaluated: ' + ', '.join(report['not_evaluated']))
    lines += [f'note: {note}' for note in report.get('notes', ())]
    return '\n'.join(lines)


def _refined_lines(numbers: Mapping) -> list[str]:
    """What is told of a trajectory that was made with refinement."""
    drift = consistent = ''
    if 't_err_first' in numbers:
        drift = f', t_err {numbers["t_err_first"]:.2f} %, r_err {numbers["r_err_first"]:.2f}'
        consistent = f', over 100 m {numbers["nees_segment"]:.2f}'
    return [
        f'  first pose aligned only: ATE {numbers["ate_first"]:.3f} m, distance '
        f'{numbers["distance_ratio"]:.3f} of the true one{drift}; scale: {numbers["scale_source"]}',
        f'  trust {numbers["trust"]:.2f}; NEES (1: covariances are true) a step '
        f'{numbers["nees_step"]:.2f}{consistent}',
        *(f'  covered {n} times: {why}' for why, n in numbers['covered'].items()),
    ]


def write(path: Path, content: str | bytes) -> None:
    """Write a file as a whole or not at all, and the folder that it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, content)


def as_json(report: Mapping) -> str:
    """The report as a JSON file's text."""
    return json.dumps(report, indent=2) + '\n'


def _csv(header: Sequence[str], rows: Iterable[Sequence]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator='\n').writerows([header, *rows])
    return stream.getvalue()


def write_results(
    out: Path, report: Mapping, scores: SequenceScores, classes: ClassMap | None
) -> None:
    """Write everything but the pictures: metrics.json, a row an image in depth.csv, a row a snippet
    in snippets.csv, confusion.csv, and estimated and true trajectories for evo and the like."""
    write(out / 'metrics.json', as_json(report))
    if scores.depth:
        write(
            out / 'depth.csv',
            _csv(
                ('sequence', 'image', 'scale', 'row', *DepthMetrics._fields),
                [
                    (f.sequence, f.name, scores.scales[f], row, *metrics)
                    for f, rows in scores.depth.items()
                    for row, metrics in rows.items()
                ],
            ),
        )
    if 'semantics' in report:
        assert classes is not None and scores.matrix is not None
        names = [c.name for c in classes.classes]
        write(
            out / 'confusion.csv',
            _csv(
                ('true \\ predicted', *names, 'none'),
                [
                    (name, *counts)
                    for name, counts in zip(names, scores.matrix.tolist(), strict=True)
                ],
            ),
        )
    if scores.snippets:
        write(
            out / 'snippets.csv',
            _csv(
                ('sequence', 'first_frame', *SnippetMetrics._fields),
                [
                    (name, i, *s)
                    for name, found in scores.snippets.items()
                    for i, s in enumerate(found)
                ],
            ),
        )
    for name, (estimate, truth, times) in scores.poses.items():
        for kind, poses in (('', estimate), ('_truth', truth)):
            file = out / 'trajectories' / f'{name}{kind}'
            write(file.with_name(file.name + '_kitti.txt'), kitti_text(poses))
            write(
                file.with_name(file.name + '_tum.txt'), tum_text(poses, (f'{t:.6f}' for t in times))
            )


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write uint8 (H, W, 3) RGB as a JPEG, as a whole or not at all."""
    write(path, cv2.imencode('.jpg', picture[..., ::-1])[1].tobytes())


def draw(
    frame: EvaluatedFrame, predictor: Predictor, protocol: Protocol, classes: ClassMap | None
) -> np.ndarray:
    """Image, depth, true depth, error, classes and true classes side by side: uint8 RGB."""
    size = predictor.perception_size
    assert size is not None  # there is nothing to draw without a perception network
    image = fitted_image(frame.image, size, frame.fit)
    size = size[0], _panel_height(frame, size)
    depth, labels = predictor.perceive(image, protocol.flip)
    panels = {'image': image}
    if frame.depth and depth is not None:
        truth, protocol = protocol.seen(frame.depth(), frame)
        prepared = prepare_depth(
            protocol.resized(depth, truth.shape),
            truth,
            median_scaling=True,
            affine=predictor.affine,
            max_depth=protocol.caps[0],
            **protocol.options,
        )
        depth = aligned_depth(depth, prepared.scale, prepared.shift)
    if depth is not None:
        near = float(np.percentile(depth, 2))
        panels['depth'] = color_depth(depth, near)
        unit = 'm' if frame.depth and frame.metric else 'units of the model'
    if frame.depth and depth is not None:
        with np.errstate(invalid='ignore', divide='ignore'):
            error = np.where(prepared.valid, np.abs(prepared.depth - truth) / truth, np.nan)
        known = np.where(truth > 0, truth, np.nan).astype(np.float32)
        if np.mean(truth > 0) < 0.3:  # points of a laser scanner are lost in a smaller picture
            known = cv2.erode(np.where(truth > 0, truth, np.inf), np.ones((5, 5)))
            known = np.where(np.isfinite(known), known, np.nan)
            error = cv2.dilate(np.where(np.isnan(error), -1, error), np.ones((5, 5)))
            error = np.where(error < 0, np.nan, error)
        panels['true depth'] = color_depth(known, near)
        panels['error, dark red: 50 % and more'] = color_error(error, image)
    colors = {c.id: c.color for c in classes.classes} if classes else {}
    if labels is not None:
        assert classes is not None  # as for every model that finds labels
        found = resize_map(classes.predicted(labels), *size)
        panels['masks'] = color_labels(found, colors, image)
    if frame.labels and classes is not None:
        truth = resize_map(classes.truth(frame.seen(read_map(frame.labels))), *size)
        panels['true masks'] = color_labels(truth, colors, image)
    cells = []
    for name, panel in panels.items():
        cell = np.ascontiguousarray(resize_map(panel, *size))
        if name in ('depth', 'true depth'):
            _legend(cell, near, unit)
        cells.append(_write(cell, name, (6, 16)))
    cells += [np.zeros_like(cells[0])] * (len(cells) % 2)
    return np.vstack([np.hstack(cells[i : i + 2]) for i in range(0, len(cells), 2)])


def _panel_height(frame: EvaluatedFrame, size: tuple[int, int]) -> int:
    """Height of a panel of the network's width whose pixels are square, as the camera sees."""
    fit = frame.fit
    if fit is None:
        return size[1]
    return max(1, round(size[0] * fit.height / fit.width * fit.camera.fx / fit.camera.fy))


def _write(panel: np.ndarray, text: str, place: tuple[int, int], scale: float = 0.5) -> np.ndarray:
    """Write white text into a panel."""
    return cv2.putText(
        panel, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), 1, cv2.LINE_AA
    )


def _legend(panel: np.ndarray, near: float, unit: str) -> None:
    """Draw what the colours of depth mean along the lower edge of a panel (H, W, 3).

    The colours are even in inverse depth, from `near` on the left to infinity on the right.
    """
    height, width = panel.shape[:2]
    bar = max(4, height // 40)
    inverse = np.linspace(1 / near, 1e-6, width, dtype=np.float32)
    panel[height - bar :] = color_depth(np.tile(1 / inverse, (bar, 1)), near)
    for factor in (1, 2, 4, 10):
        where = round((1 - 1 / factor) * (width - 1))
        panel[height - bar :, where : where + 2] = 255
        text = f'{factor * near:.3g}' + (f' {unit}' if factor == 1 else '')
        _write(panel, text, (where + 3, height - bar - 3), 0.35)
