"""Building blocks of the result pages: HTML that needs no network and no script, and figures."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape

import cv2
import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, MUTED, BLUE, ORANGE = '#1f2933', '#64707d', '#1f6feb', '#d9730d'
SERIES = (BLUE, ORANGE, '#2b8a3e', '#8e44ad', '#c2255c', '#0b7285', '#946200', '#5c5f66')
"""Colours of the curves of one figure, in order."""

STYLE = {
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
"""Of every figure; for matplotlib's `rc_context`."""

PICTURE_AREA, SMALL_AREA = 80_000, 45_000
"""Pixels that a picture has at most; with these, the some sixty ones of a page stay under 3 MB."""


# Text -------------------------------------------------------------------------------------------


def number(value: float | None, form: str = '.3f') -> str:
    """Return a number as text, with a true minus; a dash where there is none."""
    if value is None or not np.isfinite(value):
        return '–'
    return format(value, form).replace('-', '−')


def sentence(text: str) -> str:
    """Return a note as a sentence."""
    return f'{text[:1].upper()}{text[1:]}{"" if text.endswith((".", "!", "?")) else "."}'


def notes_html(notes: Iterable[str]) -> str:
    """Return notes that stand out."""
    return ''.join(f'<p class="note">{escape(sentence(note))}</p>' for note in notes)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = '') -> str:
    """Return an HTML table; the first column is text, the others are numbers."""
    top = ''.join(f'<th>{escape(name)}</th>' for name in head)
    body = ''.join(
        '<tr>' + ''.join(f'<td>{escape(cell)}</td>' for cell in row) + '</tr>' for row in rows
    )
    return (
        f'<div class="wide"><table class="{kind}"><thead><tr>{top}</tr></thead><tbody>{body}'
        '</tbody></table></div>'
    )


def meters(head: Sequence[str], values: Mapping[str, float], full: float) -> str:
    """Return a table of named values with a bar each, as wide as its share of `full`."""
    rows = ''.join(
        f'<tr><td>{escape(name)}</td><td>{number(value)}</td><td class="meter"><i style="width:'
        f'{100 * min(value / full, 1):.1f}%"></i></td></tr>'
        for name, value in values.items()
    )
    top = ''.join(f'<th>{escape(name)}</th>' for name in head)
    return (
        f'<table class="meters"><thead><tr>{top}<th></th></tr></thead><tbody>{rows}</tbody></table>'
    )


def card(value: str, unit: str, text: str) -> str:
    """Return one number in large and what it is."""
    return (
        f'<div class="card"><div class="value">{escape(value)}<small> {escape(unit)}</small>'
        f'</div><div class="what">{escape(text)}</div></div>'
    )


def definitions(rows: Iterable[tuple[str, str]]) -> str:
    """Return a list of names and what they are."""
    body = ''.join(f'<dt>{escape(key)}</dt><dd>{escape(value)}</dd>' for key, value in rows)
    return f'<dl>{body}</dl>'


def section(anchor: str, title: str, body: str) -> str:
    """Return a titled part of the page."""
    return f'<section id="{anchor}"><h2>{escape(title)}</h2>{body}</section>'


def caption(text: str) -> str:
    """Return an explanation of a table or figure; no line of it begins with a percent sign."""
    return f'<p class="caption">{escape(text.replace(" %", chr(0xA0) + "%"))}</p>'


def document(title: str, heading: str, body: str) -> str:
    """Return a whole page; `heading` is its first line, `body` HTML."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_CSS}</style>
</head>
<body>
<main>
<h1>{escape(heading)}</h1>
{body}
</main>
</body>
</html>
"""


# Pictures and figures ---------------------------------------------------------------------------


def image(rgb: np.ndarray, alt: str, area: int = PICTURE_AREA) -> str:
    """Return a picture, uint8 (H, W, 3), as an inline JPEG of at most `area` pixels."""
    height, width = rgb.shape[:2]
    factor = (area / (height * width)) ** 0.5
    if factor < 1:
        size = max(1, round(width * factor)), max(1, round(height * factor))
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    data = cv2.imencode('.jpg', rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
    return f'<img src="{_embedded(data.tobytes(), "image/jpeg")}" alt="{escape(alt)}">'


def figure(draw: Callable[[Figure], None], size: tuple[float, float], alt: str) -> str:
    """Return a drawing, made a second time for narrow pages so that its text stays readable.

    Args:
        draw: Draws into an empty figure.
        size: Width and height on wide pages, inches; 1.5 times as large on the page.
        alt: What it shows.
    """
    wide = _drawing(draw, size)
    narrow = _drawing(draw, (4.2, max(2.4, 0.85 * size[1])))
    return (
        f'<picture><source media="(max-width: 600px)" srcset="{narrow}">'
        f'<img src="{wide}" alt="{escape(alt)}"></picture>'
    )


def _drawing(draw: Callable[[Figure], None], size: tuple[float, float]) -> str:
    with rc_context(STYLE):
        drawn = Figure(figsize=size, layout='constrained')
        draw(drawn)
        stream = io.BytesIO()
        drawn.savefig(stream, format='svg', transparent=True, metadata={'Date': None})
    return _embedded(stream.getvalue(), 'image/svg+xml')


def _embedded(data: bytes, kind: str) -> str:
    return f'data:{kind};base64,{base64.b64encode(data).decode()}'


def draw_paths(axes: Axes, truth: np.ndarray, paths: Mapping[str, np.ndarray], unit: str) -> None:
    """Draw paths from above: x right, y up.

    Args:
        axes: To draw into.
        truth: True positions, (N, 3), N = 0 where they are unknown.
        paths: Other positions by label, (N, 3) each.
        unit: Of all.
    """
    if len(truth):
        axes.plot(
            truth[:, 0],
            truth[:, 1],
            color=MUTED,
            linewidth=4,
            alpha=0.45,
            label='ground truth',
            solid_capstyle='round',
        )
    for (label, path), color in zip(paths.items(), colors(len(paths)), strict=True):
        axes.plot(
            path[:, 0], path[:, 1], color=color, linewidth=1.8, label=label, solid_capstyle='round'
        )
    first = truth if len(truth) else next(iter(paths.values()))
    axes.plot(*first[0, :2], 'o', color=INK, markersize=6, label='start')
    # A straight street would be a line in a figure of no height if the box followed the path.
    axes.set_aspect('equal', adjustable='datalim')
    axes.legend(loc='best', fontsize=9)
    axes.set_xlabel(f'x, {unit}')
    axes.set_ylabel(f'y, {unit}')


def draw_over_time(
    axes: Axes, seconds: np.ndarray, values: np.ndarray, color: str, label: str
) -> None:
    """Draw values over time: their median, and their range where several share a place.

    Args:
        axes: To draw into.
        seconds: Times, (N,), ascending.
        values: (N,), not all of them NaN = unknown.
        color, label: Of the curve.
    """
    known = np.isfinite(values)
    seconds, values = seconds[known], values[known]
    # More than some 300 values make a curve a smear, and heavy.
    starts = np.arange(0, len(values), -(-len(values) // 300))[1:]
    times = np.array([np.median(part) for part in np.split(seconds, starts)])
    curves = np.array([(np.median(p), p.min(), p.max()) for p in np.split(values, starts)])
    steps = np.diff(times)
    holes = np.flatnonzero(steps > 3 * np.median(steps)) + 1 if len(steps) else []
    times, curves = np.insert(times, holes, np.nan), np.insert(curves, holes, np.nan, axis=0)
    axes.fill_between(times, curves[:, 1], curves[:, 2], color=color, alpha=0.18, linewidth=0)
    axes.plot(
        times,
        curves[:, 0],
        color=color,
        linewidth=1.4,
        label=label,
        marker='o' if len(curves) == 1 else '',
        markersize=4,
    )


def legend_above(axes: Axes) -> None:
    """Put the legend beside the title, where it hides no curve."""
    axes.legend(
        loc='lower right',
        bbox_to_anchor=(1, 0.96),
        fontsize=8,
        ncols=2,
        borderaxespad=0,
        columnspacing=1,
        handlelength=1.2,
    )


def colors(count: int) -> list[str]:
    """Return colours for curves of one figure."""
    return [SERIES[i % len(SERIES)] for i in range(count)]


_CSS = """
:root { color: #1f2933; background: #f5f7f9; font: 16px/1.55 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", sans-serif; -webkit-text-size-adjust: 100%; }
* { box-sizing: border-box; }
body { margin: 0; }
main { max-width: 1180px; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.015em;
  overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 0 0 .8rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
.lead, .caption, figcaption, .what { color: #56616c; }
.lead { margin: 0 0 1.2rem; overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: 0 0 1.4rem; font-size: .92rem; }
a { color: #1f6feb; text-decoration: none; }
a:hover, a:focus { text-decoration: underline; }
.note { border-left: 4px solid #d9730d; background: #fff; padding: .6rem 1rem; margin: .6rem 0;
  border-radius: 0 8px 8px 0; overflow-wrap: anywhere; }
.cards + .note { margin-top: 1.2rem; }
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
section > .caption:not(:last-child) { margin: 0 0 .6rem; max-width: 60rem; }
.frame { display: grid; gap: .7rem; padding: 1.1rem 0; border-top: 1px solid #e1e6ea; }
.columns4 { grid-template-columns: repeat(4, 1fr); }
.columns3 { grid-template-columns: repeat(3, 1fr); }
.columns2 { grid-template-columns: repeat(2, 1fr); }
.columns1 { grid-template-columns: minmax(0, 30rem); }
.worst { padding: .7rem 0; }
.worst .title { grid-column: 1 / -1; font-size: .9rem; }
.worst .title b { display: inline-block; min-width: 1.6rem; }
.bars { display: grid; gap: 0 2.5rem; grid-template-columns: repeat(auto-fit, minmax(15rem, 24rem));
  margin: .6rem 0; }
.bars .caption { margin: 0 0 .2rem; }
.bar { height: .6rem; border-radius: 4px; }
.marks { position: relative; height: 1.4rem; font-size: .75rem; color: #56616c; }
.marks span { position: absolute; transform: translateX(-50%); white-space: nowrap; }
.marks span:first-child { transform: none; }
.marks span:last-child { transform: translateX(-100%); }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1rem; font-size: .86rem; margin: .8rem 0; }
.legend i { display: inline-block; width: .85em; height: .85em; border-radius: 3px;
  margin-right: .4em; vertical-align: -.05em; }
.split { display: grid; gap: 1.5rem; grid-template-columns: 1.6fr 1fr; align-items: start; }
.half { display: grid; gap: 1.5rem 2.5rem; grid-template-columns: 1fr 1fr; align-items: start;
  margin-top: 1.5rem; }
.split > *, .half > * { min-width: 0; }
.wide { overflow-x: auto; }
.wide + .wide { margin-top: 1.4rem; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums;
  width: 100%; }
th, td { padding: .4rem .7rem; text-align: right; border-bottom: 1px solid #e8ecf0;
  white-space: nowrap; }
th { font-weight: 600; color: #56616c; font-size: .85rem; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.meters { max-width: 38rem; }
.meter { width: 55%; }
.meter i { display: block; height: .65rem; border-radius: 4px; background: #1f6feb;
  min-width: 1px; }
.meaning td:last-child, .meaning th:last-child { text-align: left; white-space: normal;
  min-width: 17rem; color: #56616c; }
.semantics { grid-template-columns: 1fr 1.25fr; }
.confusion { width: auto; }
.confusion th, .confusion td { padding: .2rem; border: 1px solid #fff; text-align: center;
  font-size: .72rem; min-width: 1.5rem; }
.confusion th:first-child { text-align: right; padding-right: .4rem; }
.confusion thead th { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; }
.compared th, .compared td { white-space: normal; overflow-wrap: anywhere; min-width: 6.5rem; }
.compared td:first-child { min-width: 9rem; }
.compared .group td { padding-top: 1.3rem; font-weight: 650; }
.compared small { color: #56616c; display: inline-block; min-width: 4rem; font-size: .78rem;
  white-space: nowrap; }
.best { background: #e6f4ea; font-weight: 650; }
.best small { font-weight: 400; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.2rem; font-size: .9rem; }
dt { color: #56616c; }
dd { margin: 0; overflow-wrap: anywhere; }
.said { font-size: .86rem; padding-left: 1.2rem; overflow-wrap: anywhere; }
@media (max-width: 820px) {
  .split, .half, .semantics, .columns3, .columns2 { grid-template-columns: 1fr; }
  .columns4, .worst { grid-template-columns: 1fr 1fr; }
  .frame > div:empty { display: none; }
  dl { grid-template-columns: 1fr; } dt { margin-top: .5rem; }
  main { padding-top: 1.5rem; } section { padding: 1.1rem; } h1 { font-size: 1.6rem; }
  .compared small { display: block; }
  .meaning thead { display: none; } .meaning td { border: 0; }
  .meaning tr { display: grid; grid-template-columns: 1fr auto; padding: .3rem 0;
    border-bottom: 1px solid #e8ecf0; }
  .meaning td:nth-child(2) { padding-right: 0; }
  .meaning td:last-child { grid-column: 1 / -1; padding: 0 0 .3rem; }
}
@media (max-width: 480px) {
  main { padding-left: .8rem; padding-right: .8rem; }
  .cards { grid-template-columns: 1fr 1fr; gap: .6rem; } .card { padding: .8rem .9rem; }
  .value { font-size: 1.4rem; }
}
@media print {
  .card, .frame, figure, tr { break-inside: avoid; } h2, h3 { break-after: avoid; }
  :root { background: #fff; font-size: 13px; } nav { display: none; }
  section { border: 0; padding: 0; } * { print-color-adjust: exact; }
}
"""
