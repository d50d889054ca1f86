"""The demo's report: one HTML file that needs nothing else, with every picture inside."""

from __future__ import annotations

import base64
import io
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import cv2
import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from depth_ros.contract import ModelContract, SemanticClass
from depth_ros.evaluation import Evaluation, Picture

_TURBO = cv2.applyColorMap(np.arange(256, dtype=np.uint8), cv2.COLORMAP_TURBO)[:, 0, ::-1]
_INK, _MUTED, _BLUE, _ORANGE = '#1f2933', '#64707d', '#1f6feb', '#d9730d'
_STYLE = {
    'svg.fonttype': 'none', 'svg.hashsalt': 'depth_ros', 'font.family': 'sans-serif',
    'font.size': 10, 'axes.edgecolor': '#c3cad1', 'axes.labelcolor': _MUTED,
    'xtick.color': _MUTED, 'ytick.color': _MUTED, 'axes.spines.top': False,
    'axes.spines.right': False, 'axes.grid': True, 'grid.color': '#e8ecf0', 'legend.frameon': False,
    'text.color': _INK, 'axes.axisbelow': True,
}


def write_report(
    out: Path,
    found: Mapping,
    latencies_ms: Mapping[str, np.ndarray],
    evaluation: Evaluation,
    contracts: Mapping[str, ModelContract],
) -> None:
    """Write `report.html`, and `overview.jpg` with one frame and the trajectory.

    Args:
        out: Folder to write to.
        found: What `depth_ros.demo.summarize` returned.
        latencies_ms: Latency of each output by topic.
        evaluation: Pictures and trajectories.
        contracts: The models' contracts by node.
    """
    with rc_context(_STYLE):
        _write(out / 'report.html', _page(found, latencies_ms, evaluation, contracts).encode())
        if evaluation.pictures:
            _write(out / 'overview.jpg', _overview(evaluation, contracts['perception_node']))


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(f'.{path.name}.part')
    part.write_bytes(data)
    os.replace(part, path)


# Pictures ---------------------------------------------------------------------------------------


def color_depth(depth: np.ndarray, near: float) -> np.ndarray:
    """Colour depth by its inverse: `near` and nearer is red, infinity dark blue, invalid black.

    Args:
        depth: float32 (H, W), any unit; NaN = invalid.
        near: Depth in the same unit.

    Returns:
        uint8 (H, W, 3), RGB.
    """
    valid = np.isfinite(depth)
    level = np.clip(near / np.where(valid, depth, np.inf), 0, 1)
    colored = _TURBO[(level * 255).astype(np.uint8)]
    colored[~valid] = 0
    return colored


def color_labels(
    labels: np.ndarray, classes: Sequence[SemanticClass], rgb: np.ndarray | None = None
) -> np.ndarray:
    """Colour class ids, over the camera's image where it is given; 255 is black, or the image.

    Args:
        labels: uint8 (H, W).
        classes: The classes.
        rgb: uint8 (H, W, 3), or None.

    Returns:
        uint8 (H, W, 3), RGB.
    """
    palette = np.zeros((256, 3), np.uint8)
    for item in classes:
        palette[item.id] = item.color
    colored = palette[labels]
    if rgb is None:
        return colored
    grey = cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if grey.shape != colored.shape:
        grey = cv2.resize(grey, colored.shape[1::-1], interpolation=cv2.INTER_AREA)
    return np.where((labels < len(classes))[..., None],
                    cv2.addWeighted(colored, 0.65, grey, 0.35, 0), grey)


def _image(rgb: np.ndarray, alt: str, width: int = 640) -> str:
    if rgb.shape[1] > width:
        height = max(1, round(rgb.shape[0] * width / rgb.shape[1]))
        rgb = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
    data = cv2.imencode('.jpg', rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])[1]
    return _embed(data.tobytes(), 'image/jpeg', alt)


def _embed(data: bytes, kind: str, alt: str) -> str:
    text = base64.b64encode(data).decode()
    return f'<img src="data:{kind};base64,{text}" alt="{escape(alt)}">'


def _near(pictures: Sequence[Picture]) -> float:
    """Depth that the warm end of the colours stands for: about 5 % of the scenes is nearer."""
    near = []
    for picture in pictures:
        depth = picture.true_depth if picture.true_depth is not None else picture.depth
        if depth is not None and np.isfinite(depth).any():
            near.append(np.nanpercentile(depth, 5))
    return float(np.median(near)) if near else 1.0


def _to_scale(picture: Picture, metric: bool) -> np.ndarray:
    """Predicted depth in the unit of the truth, for colouring."""
    if metric or picture.true_depth is None:
        return picture.depth
    return picture.depth * (np.nanmedian(picture.true_depth) / np.nanmedian(picture.depth))


def _frame(
    picture: Picture, start_ns: int, near: float, classes: Sequence[SemanticClass], metric: bool
) -> str:
    """One frame: what came out in a row, and the truth below it."""
    time = f'{(picture.stamp_ns - start_ns) / 1e9:.1f} s'
    above = [_figure(picture.rgb, f'Camera image at {time}')]
    below = ['<div></div>']
    if picture.depth is not None:
        above.append(_figure(color_depth(_to_scale(picture, metric), near), 'Depth'))
        if picture.true_depth is not None:
            caption = f'True depth (Abs Rel {picture.abs_rel:.3f})'
            below.append(_figure(color_depth(picture.true_depth, near), caption))
        else:
            below.append('<div></div>')
    if picture.labels is not None:
        above.append(_figure(color_labels(picture.labels, classes, picture.rgb), 'Masks'))
        if picture.true_labels is not None:
            colored = color_labels(picture.true_labels, classes, picture.rgb)
            below.append(_figure(colored, 'True masks'))
        else:
            below.append('<div></div>')
    truth = picture.true_depth is not None or picture.true_labels is not None
    return (f'<div class="frame columns{len(above)}">{"".join(above)}'
            f'{"".join(below) if truth else ""}</div>')


def _figure(rgb: np.ndarray, caption: str) -> str:
    return f'<figure>{_image(rgb, caption)}<figcaption>{caption}</figcaption></figure>'


def _color_bar(near: float, unit: str) -> str:
    stops = ', '.join(f'rgb({r},{g},{b})' for r, g, b in _TURBO[::-15])
    marks = ''.join(f'<span style="left:{100 * (1 - 1 / f):.0f}%">{near * f:.3g}</span>'
                    for f in (1, 1.5, 2.5, 6))
    return (f'<div class="scale"><div class="bar" style="background:linear-gradient(to right, '
            f'{stops})"></div><div class="marks">{marks}<span style="left:100%">∞ {unit}</span>'
            '</div></div>')


# Figures ----------------------------------------------------------------------------------------


def _svg(figure: Figure, alt: str) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format='svg', metadata={'Date': None}, bbox_inches='tight')
    return _embed(stream.getvalue(), 'image/svg+xml', alt)


def _draw_trajectory(axes: Axes, evaluation: Evaluation, metric: bool) -> None:
    """Draw the paths from above: x right, y up."""
    paths = []
    if len(evaluation.truth):
        paths.append((evaluation.truth, 'ground truth', _MUTED, '-', 4))
    if evaluation.trajectory:
        paths.append((evaluation.trajectory.aligned, 'odometry, aligned', _BLUE, '-', 1.8))
    elif len(evaluation.estimate):
        paths.append((evaluation.estimate, 'odometry', _BLUE, '-', 1.8))
    for path, label, color, line, width in paths:
        axes.plot(path[:, 0], path[:, 1], line, color=color, linewidth=width, label=label,
                  alpha=0.45 if width > 2 else 1, solid_capstyle='round')
    if paths:
        first = paths[0][0]
        axes.plot(*first[0, :2], 'o', color=_ORANGE, markersize=7, label='start')
        both = np.concatenate([p[0][:, :2] for p in paths])
        low, high = both.min(axis=0), both.max(axis=0)
        # A straight street would otherwise be a line in a figure of no height.
        half = np.maximum((high - low) / 2, 0.18 * (high - low).max() + 1e-3) * 1.08
        middle = (low + high) / 2
        axes.set_xlim(middle[0] - half[0], middle[0] + half[0])
        axes.set_ylim(middle[1] - half[1], middle[1] + half[1])
        axes.legend(loc='best', fontsize=9)
    axes.set_aspect('equal')
    unit = 'm' if metric or evaluation.trajectory else 'model units'
    axes.set_xlabel(f'x, {unit}')
    axes.set_ylabel(f'y, {unit}')


def _trajectory_figure(evaluation: Evaluation, metric: bool) -> str:
    figure = Figure(figsize=(7, 4.2))
    _draw_trajectory(figure.add_subplot(), evaluation, metric)
    return _svg(figure, 'trajectory from above')


def _latency_figure(latencies: Mapping[str, np.ndarray]) -> str:
    figure = Figure(figsize=(7, 3.4))
    axes = figure.add_subplot()
    top = max(float(np.percentile(v, 99.5)) for v in latencies.values()) * 1.1
    bins = np.linspace(0, top, 41)
    for (topic, values), color in zip(latencies.items(), (_BLUE, _ORANGE), strict=False):
        axes.hist(np.minimum(values, top), bins, color=color, alpha=0.75, label=topic)
        axes.axvline(float(np.median(values)), color=color, linewidth=1.2, linestyle='--')
    axes.set_xlabel('from publishing the image to receiving the output, ms')
    axes.set_ylabel('frames')
    axes.grid(axis='x', visible=False)
    axes.legend(loc='best', fontsize=9)
    return _svg(figure, 'histogram of latencies')


def _overview(evaluation: Evaluation, contract: ModelContract) -> bytes:
    """One frame in the middle, and the trajectory, as a JPEG."""
    picture = evaluation.pictures[len(evaluation.pictures) // 2]
    panels = [('camera', picture.rgb)]
    if picture.depth is not None:
        near = _near([picture])
        panels.append(('depth', color_depth(_to_scale(picture, contract.metric), near)))
    if picture.labels is not None:
        panels.append(('masks', color_labels(picture.labels, contract.classes, picture.rgb)))
    rows = (len(panels) + 2) // 2
    height = 6 * picture.rgb.shape[0] / picture.rgb.shape[1] + 0.35
    figure = Figure(figsize=(12, rows * height), layout='constrained')
    for index, (title, image) in enumerate(panels):
        axes = figure.add_subplot(rows, 2, index + 1)
        axes.imshow(image)
        axes.set_title(title, fontsize=11, loc='left')
        axes.axis('off')
    axes = figure.add_subplot(rows, 2, len(panels) + 1)
    _draw_trajectory(axes, evaluation, contract.metric)
    axes.set_title('trajectory from above', fontsize=11, loc='left')
    stream = io.BytesIO()
    figure.savefig(stream, format='jpeg', dpi=110, pil_kwargs={'quality': 88})
    return stream.getvalue()


# Page -------------------------------------------------------------------------------------------


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """An HTML table; the first column is text, the others are numbers."""
    top = ''.join(f'<th>{escape(name)}</th>' for name in head)
    body = ''.join('<tr>' + ''.join(f'<td>{escape(cell)}</td>' for cell in row) + '</tr>'
                   for row in rows)
    return (f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'
            '</div>')


def _card(value: str, unit: str, text: str) -> str:
    return (f'<div class="card"><div class="value">{value}<small> {unit}</small></div>'
            f'<div class="what">{text}</div></div>')


def _cards(found: Mapping, metric: bool) -> str:
    cards = [_card(f'{found["frames_out"]} / {found["frames_in"]}', 'frames',
                   f'came out; {found["dropped_percent"]:.1f} % dropped')]
    latency = found['latency_ms']['perception']
    if latency:
        cards.append(_card(f'{latency["p50"]:.0f}', 'ms', 'median latency, image published to '
                           f'depth received; 95 % under {latency["p95"]:.0f} ms'))
    if found['depth_median_scaled']:
        text = 'depth Abs Rel, median-scaled'
        if found['depth']:
            text += f'; {found["depth"]["abs_rel"]:.3f} as published, in metres'
        cards.append(_card(f'{found["depth_median_scaled"]["abs_rel"]:.3f}', '', text))
    if found['semantics']:
        road = found['semantics']['road_iou']
        mean = found['semantics']['mean_iou']
        cards.append(_card(f'{road:.3f}', '', f'road IoU; mean IoU {mean:.3f}') if road is not None
                     else _card(f'{mean:.3f}', '', 'mean IoU'))
    if found['trajectory']:
        t = found['trajectory']
        cards.append(_card(f'{t["ate_sim3_m"]:.2f}', 'm', 'trajectory error (ATE, aligned with '
                           f'scale) over {t["length_m"]:.0f} m; {t["ate_se3_m"]:.2f} m without '
                           'scaling'))
    elif found['odometry_out']:
        unit = 'm' if metric else 'units'
        cards.append(_card(f'{found["odometry_length"]:.1f}', unit, 'travelled, by the odometry'))
    return f'<div class="cards">{"".join(cards)}</div>'


def _frames_section(evaluation: Evaluation, contract: ModelContract) -> str:
    pictures = evaluation.pictures
    if not pictures:
        return ''
    start = min(p.stamp_ns for p in pictures)
    near = _near(pictures)
    frames = ''.join(
        _frame(p, start, near, contract.classes, contract.metric) for p in pictures)
    seen = {int(i) for p in pictures for image in (p.labels, p.true_labels)
            if image is not None for i in np.unique(image)}
    keys = ''.join(f'<span><i style="background:rgb{c.color}"></i>{escape(c.name)}</span>'
                   for c in contract.classes if c.id in seen)
    legend = f'<p class="legend">{keys}</p>' if keys else ''
    truth = any(p.true_depth is not None for p in pictures)
    bar = note = ''
    if 'depth' in contract.outputs:
        bar = _color_bar(near, 'm' if contract.metric or truth else 'model units')
        note = 'Colours of depth, from near to far; black has no depth, as the sky.'
        if truth and not contract.metric:
            note += ' Each prediction is scaled to the median of the truth.'
    return f'''<section><h2>Frames</h2>
<p class="caption">{note}</p>{bar}{legend}{frames}</section>'''


def _depth_section(found: Mapping) -> str:
    if not found['depth_median_scaled']:
        return ''
    rows = [(name, *(f'{found[key][m]:.3f}' for m in found['depth_median_scaled']))
            for name, key in (('median-scaled', 'depth_median_scaled'),
                              ('as published, metres', 'depth')) if found[key]]
    head = ('', 'Abs Rel', 'Sq Rel, m', 'RMSE, m', 'RMSE log', 'δ < 1.25', 'δ < 1.25²', 'δ < 1.25³')
    return f'''<section><h2>Depth against ground truth</h2>{_table(head, rows)}
<p class="caption">Mean over {found["depth_frames"]} frames. Pixels with a true depth under 80 m and
a predicted one count. Median scaling multiplies each frame by the ratio of the median depths. The
first four: lower is better; the last three: higher.</p></section>'''


def _semantics_section(found: Mapping) -> str:
    if not found['semantics']:
        return ''
    rows = ''.join(
        f'<tr><td>{escape(name)}</td><td>{value:.3f}</td><td class="meter"><i style="width:'
        f'{100 * value:.1f}%"></i></td></tr>'
        for name, value in sorted(found['semantics']['iou'].items(), key=lambda item: -item[1]))
    return f'''<section><h2>Semantics against ground truth</h2>
<table class="iou"><thead><tr><th>class</th><th>IoU</th><th></th></tr></thead>
<tbody>{rows}</tbody></table>
<p class="caption">Intersection over union over all pixels of {found["semantics"]["frames"]}
frames, for the classes that the ground truth has; mean
{found["semantics"]["mean_iou"]:.3f}.</p></section>'''


def _trajectory_section(found: Mapping, evaluation: Evaluation, metric: bool) -> str:
    if len(evaluation.estimate) < 2:
        return ''
    unit = 'm' if metric else 'model units'
    table, caption = '', f'Path of {found["odometry_length"]:.1f} {unit} by the odometry.'
    if found['trajectory']:
        t = found['trajectory']
        table = _table(
            ('', 'value'),
            [('length of the true path', f'{t["length_m"]:.2f} m'),
             ('ATE, rigidly aligned (SE3)', f'{t["ate_se3_m"]:.3f} m'),
             ('ATE, aligned with scale (Sim3)', f'{t["ate_sim3_m"]:.3f} m'),
             ('ATE (Sim3) / length', f'{100 * t["ate_sim3_m"] / t["length_m"]:.2f} %'),
             ('scale of the alignment', f'{t["scale"]:.4f}'),
             ('poses compared', f'{t["poses"]}')])
        caption = ('From above. The odometry is aligned with scale; ATE is the RMSE of position '
                   'after the alignment.')
    return f'''<section><h2>Trajectory</h2>
<div class="split"><figure>{_trajectory_figure(evaluation, metric)}
<figcaption>{caption}</figcaption></figure>{table}</div></section>'''


def _time_section(found: Mapping, latencies: Mapping[str, np.ndarray]) -> str:
    shown = {t: v for t, v in latencies.items()
             if t.endswith(('/depth/image_rect', '/odom')) and len(v)} or {
        t: v for t, v in latencies.items() if t.endswith('/semantics/labels') and len(v)}
    figure = (f'<figure>{_latency_figure(shown)}<figcaption>Latency of every frame; dashed: the '
              'median. Both ends read the same clock.</figcaption></figure>') if shown else ''
    table = ''
    if found['stages_ms']:
        stages = list(dict.fromkeys(s for times in found['stages_ms'].values() for s in times))
        nodes = list(found['stages_ms'])
        rows = [(stage, *(f'{found["stages_ms"][n].get(stage, 0):.2f}' for n in nodes))
                for stage in stages]
        table = (f'<div>{_table(("median, ms", *nodes), rows)}<p class="caption">Inside the nodes, '
                 'from their diagnostics. Overhead is all but inference; latency runs from the '
                 "image's arrival to the last publication.</p></div>")
    return f'<section><h2>Time</h2><div class="split">{figure}{table}</div></section>'


def _made_section(found: Mapping, contracts: Mapping[str, ModelContract]) -> str:
    rows = [('recording', found['recording'])]
    rows += [(f'topic of {name}', topic) for name, topic in found['topics'].items()]
    rows.append(('replay', f'at {found["rate"]:g} times its speed; at worst '
                 f'{found["player_latest_ms"]:.0f} ms late'))
    for node, contract in contracts.items():
        scale = 'metric' if contract.metric else 'up to scale'
        rows.append((node, f'{contract.name}, {contract.input_width}x{contract.input_height}, '
                     f'{scale}, {found["backends"].get(node, "")}; {found["models"][node]}'))
        rows += [(f'{contract.name}: {key}', str(value))
                 for key, value in contract.provenance.items()]
    rows += [('machine', f'{_processor()}, {os.cpu_count()} processors, {platform.system()}'),
             ('software', f'Python {platform.python_version()}, {", ".join(_versions())}'),
             ('made', datetime.now().astimezone().strftime('%Y-%m-%d %H:%M %Z'))]
    body = ''.join(f'<dt>{escape(key)}</dt><dd>{escape(value)}</dd>' for key, value in rows)
    said = ''
    if found['node_messages']:
        items = ''.join(f'<li>{escape(m)}</li>' for m in found['node_messages'])
        said = f'<h3>What the nodes said</h3><ul class="said">{items}</ul>'
    return f'''<section><h2>How this was made</h2>
<p>The recording was replayed with its clock through <code>perception_node</code> and
<code>odometry_node</code>; a recorder kept what they published. Player, nodes and recorder are
processes of their own and talk over DDS. The numbers are computed from the recorded messages.</p>
<dl>{body}</dl>{said}</section>'''


def _processor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(':')[2].strip() for line in lines if line.startswith('model name')),
                platform.machine())


def _versions() -> list[str]:
    found = []
    for name in ('rclpy', 'onnxruntime', 'openvino', 'numpy', 'evo', 'rosbags'):
        try:
            found.append(f'{name} {version(name)}')
        except PackageNotFoundError:
            continue
    return found


_CSS = '''
:root { color: #1f2933; background: #f5f7f9; font: 16px/1.55 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", sans-serif; }
* { box-sizing: border-box; }
body { margin: 0; }
main { max-width: 1180px; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.015em; }
h2 { font-size: 1.2rem; margin: 0 0 .8rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
.lead, .caption, figcaption, .what { color: #56616c; }
.lead { margin: 0 0 1.8rem; overflow-wrap: anywhere; }
.note { border-left: 4px solid #d9730d; background: #fff; padding: .6rem 1rem; margin: .6rem 0;
  border-radius: 0 8px 8px 0; }
section { background: #fff; border: 1px solid #e1e6ea; border-radius: 12px; padding: 1.5rem;
  margin-top: 1.5rem; }
.cards { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(12.5rem, 1fr)); }
.card { background: #fff; border: 1px solid #e1e6ea; border-radius: 12px; padding: 1.1rem 1.25rem; }
.value { font-size: 1.75rem; font-weight: 650; letter-spacing: -.02em;
  line-height: 1.25; }
.value small { font-size: .95rem; font-weight: 400; color: #56616c; letter-spacing: 0; }
.what { font-size: .88rem; line-height: 1.4; margin-top: .2rem; }
figure { margin: 0; min-width: 0; }
img { display: block; width: 100%; height: auto; border-radius: 6px; }
figcaption, .caption { font-size: .86rem; margin: .35rem 0 0; }
.frame { display: grid; gap: .7rem; padding: 1.1rem 0; border-top: 1px solid #e1e6ea; }
.columns3 { grid-template-columns: repeat(3, 1fr); }
.columns2 { grid-template-columns: repeat(2, 1fr); }
.scale { max-width: 26rem; margin: .6rem 0; }
.bar { height: .6rem; border-radius: 4px; }
.marks { position: relative; height: 1.4rem; font-size: .75rem; color: #56616c; }
.marks span { position: absolute; transform: translateX(-50%); white-space: nowrap; }
.marks span:first-child { transform: none; }
.marks span:last-child { transform: translateX(-100%); }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1rem; font-size: .86rem; }
.legend i { display: inline-block; width: .85em; height: .85em; border-radius: 3px;
  margin-right: .4em; vertical-align: -.05em; }
.split { display: grid; gap: 1.5rem; grid-template-columns: 1.6fr 1fr; align-items: start; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums;
  width: 100%; }
th, td { padding: .4rem .7rem; text-align: right; border-bottom: 1px solid #e8ecf0;
  white-space: nowrap; }
th { font-weight: 600; color: #56616c; font-size: .85rem; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.iou { max-width: 38rem; }
.meter { width: 60%; }
.meter i { display: block; height: .65rem; border-radius: 4px; background: #1f6feb;
  min-width: 1px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.2rem; font-size: .9rem; }
dt { color: #56616c; }
dd { margin: 0; overflow-wrap: anywhere; }
.said { font-size: .86rem; padding-left: 1.2rem; overflow-wrap: anywhere; }
@media (max-width: 820px) {
  .split, .columns3, .columns2 { grid-template-columns: 1fr; }
  .frame > div:empty { display: none; }
  dl { grid-template-columns: 1fr; } dt { margin-top: .5rem; }
  main { padding-top: 1.5rem; } section { padding: 1.1rem; }
}
@media print { section, .card { break-inside: avoid; } :root { background: #fff; } }
'''


def _page(
    found: Mapping,
    latencies: Mapping[str, np.ndarray],
    evaluation: Evaluation,
    contracts: Mapping[str, ModelContract],
) -> str:
    contract = contracts['perception_node']
    metric_motion = contracts['odometry_node'].metric
    name = escape(Path(found['recording']).resolve().name)
    size = ''
    if evaluation.pictures:
        height, width = evaluation.pictures[0].rgb.shape[:2]
        size = f', {width}x{height} pixels'
    notes = ''.join(f'<p class="note">{escape(note[0].upper() + note[1:])}.</p>'
                    for note in evaluation.notes)
    return f'''<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>depth_ros: {name}</title>
<style>{_CSS}</style>
</head>
<body>
<main>
<h1>One camera in; depth, masks and odometry out</h1>
<p class="lead">depth_ros on the recording <strong>{name}</strong>:
{found["frames_in"]} images{size}, replayed through the ROS 2 nodes.</p>
{_cards(found, metric_motion)}
{notes}
{_frames_section(evaluation, contract)}
{_trajectory_section(found, evaluation, metric_motion)}
{_depth_section(found)}
{_semantics_section(found)}
{_time_section(found, latencies)}
{_made_section(found, contracts)}
</main>
</body>
</html>
'''
