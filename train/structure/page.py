"""The page of ``python -m train structure``: what was found, as numbers and pictures.

One HTML file that needs nothing else, with every picture inside.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path

import cv2
import jinja2
import numpy as np
from markupsafe import Markup
from matplotlib import colormaps, rc_context
from matplotlib.figure import Figure

from depth_ros.evaluation.structure import Structure, StructureError
from depth_ros.files import write_file
from train.data.sequences import DataError, Sequence, read_picture, read_sequence
from train.structure.build import Report

NAME = 'structure.html'
EXAMPLES = 3  # frames of a sequence
WIDTH = 560  # pixels of an example
SHOWN = 60  # sequences with pictures; a fleet's page must still open
_BLUE, _ORANGE = '#1f6feb', '#d9730d'


def write_page(out: Path, reports: list[Report]) -> Path:
    """Write ``out / 'structure.html'``; returns its path.

    Args:
        out: folder of the data set.
        reports: of all its sequences.
    """
    good = [report for report in reports if not report.failure]
    frames = sum(report.registered for report in good)
    points = sum(report.registered * report.points for report in good)
    metric = sum(part.frames for r in good for part in r.parts if part.spread is not None)
    cards = [
        (f'{len(good)} of {len(reports)}', 'sequences reconstructed'),
        (f'{frames} of {sum(r.frames for r in reports)}', 'frames registered'),
        (f'{points / max(1, frames):.0f}', 'points a frame'),
        (f'{100 * metric / max(1, frames):.0f} %', 'of them in metres'),
    ]
    page = _ENVIRONMENT.from_string(_PAGE).render(
        title=out.resolve().name,
        cards=cards,
        reports=reports,
        pictures={r.name: _pictures(Path(r.folder)) for r in good[:SHOWN]},
    )
    write_file(out / NAME, page)
    return out / NAME


def _pictures(folder: Path) -> dict[str, list[tuple[str, Markup]] | Markup]:
    """Examples with their depth, the way from above, and points along the drive."""
    try:
        sequence = read_sequence(folder)
        structure = sequence.structure()
    except (DataError, StructureError):
        return {}
    if structure is None:
        return {}
    frames = np.flatnonzero(structure.registered)
    chosen = frames[np.linspace(0, len(frames) - 1, EXAMPLES + 2).round().astype(int)[1:-1]]
    return {
        'examples': [
            (sequence.images[i].stem, _overlay(sequence, structure, int(i)))
            for i in np.unique(chosen)
        ],
        'way': _way(structure),
        'counts': _counts(structure),
    }


def _overlay(sequence: Sequence, structure: Structure, index: int) -> Markup:
    """A frame, grey, and its points, near ones yellow and far ones dark."""
    picture = read_picture(sequence.images[index])
    scale = WIDTH / picture.shape[1]
    size = WIDTH, max(1, round(scale * picture.shape[0]))
    grey = cv2.cvtColor(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY)
    shown = cv2.cvtColor((0.6 * grey).astype(np.uint8), cv2.COLOR_GRAY2BGR)
    points = structure.points(index)
    low, high = np.log(np.percentile(structure.depth, [2, 98]))
    share = (np.log(points.depth) - low) / max(high - low, 1e-6)
    colors = colormaps['plasma_r'](share.clip(0, 1))[:, 2::-1] * 255
    order = np.argsort(-points.depth)  # near ones on top
    for (x, y), color in zip(points.xy[order] * scale, colors[order], strict=True):
        cv2.circle(shown, (round(float(x)), round(float(y))), 2, color.tolist(), -1, cv2.LINE_AA)
    data = cv2.imencode('.jpg', shown, [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    return _image('jpeg', data.tobytes(), 'points over the picture')


def _way(structure: Structure) -> Markup:
    """The camera's way from above, and the points around it."""
    figure = Figure(figsize=(5.4, 4))
    axes = figure.add_subplot()
    metric = bool(np.isfinite(structure.metric_spread).any())
    for number in np.unique(structure.part[structure.registered]):
        frames = np.flatnonzero(structure.part == number)
        poses = structure.poses[frames]
        # From above as the camera sees it: its mean y axis points down.
        start = _upright(poses)
        eyes = (poses[:, :3, 3] - poses[0, :3, 3]) @ start
        cloud = []
        for frame in frames[:: max(1, len(frames) // 40)]:
            points = structure.points(int(frame))
            near = points.depth < np.percentile(structure.depth, 60)
            rays = np.linalg.solve(
                structure.intrinsics,
                np.column_stack([points.xy[near], np.ones(near.sum())]).T,
            )
            local = (rays * points.depth[near]).T
            pose = structure.poses[frame]
            cloud.append((local @ pose[:3, :3].T + pose[:3, 3] - poses[0, :3, 3]) @ start)
        around = np.concatenate(cloud)
        axes.plot(around[:, 0], around[:, 2], ',', color='#9aa5b1', rasterized=True)
        axes.plot(eyes[:, 0], eyes[:, 2], linewidth=2, label=f'part {number + 1}')
    axes.set_aspect('equal', 'datalim')
    axes.set_xlabel('right, metres' if metric else 'right, no unit')
    axes.set_ylabel('forward, metres' if metric else 'forward, no unit')
    if len(structure.metric_spread) > 1:
        axes.legend(fontsize=7, frameon=False)
    return _svg(figure, 'the way from above')


def _upright(poses: np.ndarray) -> np.ndarray:
    """Axes (3, 3), as columns: right, down and forward at the start, down as it is on average."""
    down = poses[:, :3, 1].mean(0)
    down /= np.linalg.norm(down) + 1e-12
    forward = poses[0, :3, 2] - (poses[0, :3, 2] @ down) * down
    forward /= np.linalg.norm(forward) + 1e-12
    return np.stack([np.cross(down, forward), down, forward], 1)


def _counts(structure: Structure) -> Markup:
    """Points of each frame along the drive."""
    figure = Figure(figsize=(5.4, 4))
    axes = figure.add_subplot()
    axes.fill_between(
        np.arange(len(structure)), np.diff(structure.starts), color=_BLUE, step='mid', alpha=0.7
    )
    lost = np.flatnonzero(~structure.registered)
    axes.plot(lost, np.zeros(len(lost)), '|', color=_ORANGE, label='left out', clip_on=False)
    if len(lost):
        axes.legend(fontsize=7, frameon=False)
    axes.set_ylim(bottom=0)
    axes.set_xlabel('frame')
    axes.set_ylabel('points')
    return _svg(figure, 'points of each frame')


def _svg(figure: Figure, alt: str) -> Markup:
    for axes in figure.axes:
        axes.spines[['top', 'right']].set_visible(False)
    stream = io.BytesIO()
    with rc_context({'svg.hashsalt': 'structure', 'svg.fonttype': 'none'}):
        figure.savefig(stream, format='svg', metadata={'Date': None}, bbox_inches='tight', dpi=120)
    return _image('svg+xml', stream.getvalue(), alt)


def _image(kind: str, data: bytes, alt: str) -> Markup:
    source = f'data:image/{kind};base64,{base64.b64encode(data).decode()}'
    return Markup('<img src="{}" alt="{}">').format(Markup(source), alt)


_ENVIRONMENT = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}: structure</title>
<meta name="viewport" content="width=device-width">
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2933; background: #f5f7f9; margin: 0; }
main { max-width: 1160px; margin: 0 auto; padding: 24px; }
h1 { font-size: 24px; margin: 0 0 16px; }
h2 { font-size: 17px; margin: 0 0 12px; }
section { background: #fff; border: 1px solid #e3e8ed; border-radius: 8px; padding: 18px 20px;
  margin: 16px 0; overflow-x: auto; }
.cards { display: flex; flex-wrap: wrap; gap: 12px; }
.cards div { flex: 1; min-width: 120px; background: #fff; border: 1px solid #e3e8ed;
  border-radius: 8px; padding: 12px 16px; color: #64707d; }
.cards b { display: block; font-size: 24px; color: #1f2933; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: 6px 10px; text-align: right; border-bottom: 1px solid #e8ecf0; }
th { color: #64707d; font-weight: 500; }
th:first-child, td:first-child { text-align: left; }
td.bad, li { color: #b4540a; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); gap: 12px; }
figure { margin: 0; }
img { width: 100%; border-radius: 4px; display: block; }
figcaption { color: #64707d; font-size: 12px; }
</style></head>
<body><main><h1>{{ title }}</h1>
<div class="cards">
{% for value, text in cards %}<div><b>{{ value }}</b>{{ text }}</div>{% endfor %}
</div>
<section><h2>Sequences</h2>
<table><thead><tr><th>sequence</th><th>frames</th><th>registered</th><th>points a frame</th>
<th>reprojection error</th><th>depth sure to</th><th>parts</th><th>length</th><th>metres from</th>
</tr></thead><tbody>
{% for r in reports %}
<tr><td>{{ r.name }}</td><td>{{ r.frames }}</td>
{% if r.failure %}
<td class="bad" colspan="7">{{ r.failure }}</td>
{% else %}
<td{% if r.registered < 0.95 * r.frames %} class="bad"{% endif %}>
{{ '%.0f' % (100 * r.registered / r.frames) }} %</td>
<td>{{ '%.0f' % r.points }}</td><td>{{ '%.2f' % r.error }} px</td>
<td>{{ '%.1f' % (100 * r.sigma) }} %</td><td>{{ r.parts | length }}</td>
{% set metric = r.parts | selectattr('spread', 'ne', none) | list %}
<td>{% if metric %}{{ '%.0f' % (metric | sum(attribute='length')) }} m{% else %}-{% endif %}</td>
<td>{% if metric %}
{{ metric[0].source }}, to {{ '%.1f' % (100 * metric[0].spread) }} %
{% else %}none{% endif %}</td>
{% endif %}
</tr>
{% endfor %}
</tbody></table></section>
{% for r in reports if not r.failure %}
<section><h2>{{ r.name }}</h2>
{% if r.remarks %}<ul>
{% for remark in r.remarks %}<li>{{ remark }}</li>{% endfor %}
</ul>{% endif %}
<p>Focal length {{ '%.0f' % r.focal[0] }} pixels
{%- if r.estimated %}, found here; distortion k1 {{ '%.3f' % r.distortion }}{% endif %}.</p>
{% with shown = pictures.get(r.name) %}{% if shown %}
<div class="grid">
{% for label, picture in shown.examples %}
<figure>{{ picture }}<figcaption>{{ label }}: near points yellow, far ones dark</figcaption>
</figure>
{% endfor %}
<figure>{{ shown.way }}<figcaption>the way and the points around it, from above</figcaption>
</figure>
<figure>{{ shown.counts }}<figcaption>points of each frame</figcaption></figure>
</div>
{% endif %}{% endwith %}
</section>
{% endfor %}
</main></body></html>
"""
