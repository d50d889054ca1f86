"""What became of the recordings of a data set: their reports, warnings, and a page that shows them.

The page is one HTML file that needs nothing else, with every picture inside.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

import cv2
import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from depth_ros.files import write_file
from train.data.sequences import IMAGE_SUFFIXES, DataError

EXAMPLES = 12  # pictures of each part
STILL = 0.5  # of the frames: more, and the camera mostly stands
FLICKER = 0.06  # of the brightness, by which a picture may stand out from those around it
FLICKERING = 0.25  # of the pictures may do so
BLURRED = 0.3  # of the recording's median sharpness: less is blurred
BLURRY = 0.1  # of the pictures may be
SOFT = 0.03  # median sharpness under which all pictures seem blurred: by two pixels or more
LARGE = 0.08  # of the width: more motion between two pictures is hard to learn
FEW = 100  # samples to train on; fewer hardly teach anything
_COLORS = {'train': '#1f6feb', 'val': '#d9730d', 'test': '#2f9e63', '': '#1f6feb'}


@dataclass(frozen=True)
class Report:
    """What became of one recording.

    Attributes:
        name: of its sequences.
        facts: what is known of it, by name; ``source``, where it lies, always.
        remarks: what its reader warned of.
        frames: that it has.
        static: of them, left out because the camera stood.
        close: left out because too close to the one before.
        apart: left out between two parts.
        damaged: what was wrong with each of those that could not be used.
        parts: frames, targets, and targets that have both neighbours, by part.
        flow: motion since the frame before, of those that were kept, pixels at network size.
        brightness: mean of each picture, 0 to 255.
        sharpness: of each picture that was kept.
        size: width and height as recorded.
        intrinsics: rows of the stored pictures' matrix, or ``None`` where it is unknown.
    """

    name: str
    facts: dict[str, str]
    remarks: list[str]
    frames: int
    static: int
    close: int
    apart: int
    damaged: list[str]
    parts: dict[str, tuple[int, int, int]]
    flow: list[float]
    brightness: list[float]
    sharpness: list[float]
    size: list[int]
    intrinsics: list[list[float]] | None

    def save(self, folder: Path) -> None:
        """Write it to ``folder``; it appears whole or not at all."""
        folder.mkdir(exist_ok=True)
        write_file(folder / f'{self.name}.json', json.dumps(asdict(self)))

    @classmethod
    def load(cls, folder: Path, name: str, source: str | None = None) -> Report | None:
        """Read it; ``None`` if there is none.

        Raises:
            DataError: if it is damaged, or of a recording that lies elsewhere than ``source``.
        """
        path = folder / f'{name}.json'
        if not path.exists():
            return None
        try:
            report = cls(**json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise DataError(f"'{path}' is damaged: remove it, to prepare '{name}' again") from error
        if source not in (None, report.facts['source']):
            raise DataError(
                f"'{folder.parent}' has a '{name}' already, of "
                f"'{report.facts['source']}': rename '{source}'"
            )
        return report


def warnings(reports: list[Report]) -> list[tuple[str, str]]:
    """What may spoil a training with these recordings, and the name of the one concerned."""
    parts = {part for report in reports for part in report.parts}
    samples = sum(
        part[2] for r in reports for name, part in r.parts.items() if name in ('', 'train')
    )
    found = [(report.name, text) for report in reports for text in _warnings(report)]
    if samples < FEW:
        found.append(
            (
                'all',
                f'too few frames: {samples} to train on that have both neighbours, a '
                f'training wants {FEW} or more',
            )
        )
    if parts == {'train'}:
        found.append(
            (
                'all',
                'nothing for val: too short to be divided, or --shares leaves none; '
                'prepare another recording for it',
            )
        )
    return found


def _warnings(report: Report) -> list[str]:
    """Those of one recording."""
    found = list(report.remarks)
    measured = max(1, report.frames - len(report.damaged))
    if report.static > STILL * measured:
        found.append(
            f'camera looks mostly static: {100 * report.static / measured:.0f} % of the '
            'frames show no motion'
        )
    if (share := _flicker(np.array(report.brightness))) > FLICKERING:
        found.append(
            f'rolling exposure: the brightness of {100 * share:.0f} % of the images jumps '
            'against those before and after: fix exposure and gain of the camera'
        )
    sharpness = np.array(report.sharpness)
    if len(sharpness) and np.median(sharpness) < SOFT:
        found.append('images look blurred: check focus and exposure time')
    elif len(sharpness) and (share := (sharpness < BLURRED * np.median(sharpness)).mean()) > BLURRY:
        found.append(
            f'{100 * share:.0f} % of the images are much less sharp than the others: '
            'motion blur? Shorten the exposure time'
        )
    if report.intrinsics is None:
        found.append('the camera is not calibrated: train with --learn-intrinsics true')
    elif report.flow and np.median(report.flow) > LARGE * 2 * report.intrinsics[0][2]:
        found.append(
            f'the picture moves by {np.median(report.flow):.0f} pixels from one to the '
            'next: record at a higher rate, or drive slower'
        )
    if report.damaged:
        found.append(f'{len(report.damaged)} damaged images left out, such as: {report.damaged[0]}')
    return found


def _flicker(brightness: np.ndarray) -> float:
    """Share of the pictures that are brighter or darker than those 1, 2 or 3 before and after.

    A drive into the shade is no peak; an exposure control that overshoots makes one after another.
    """
    peaks = np.zeros(len(brightness), bool)
    for reach in (1, 2, 3):
        here = brightness[reach:-reach]
        rise, fall = here - brightness[: -2 * reach], here - brightness[2 * reach :]
        peak = (rise * fall > 0) & (np.minimum(abs(rise), abs(fall)) > FLICKER * here.clip(10))
        peaks[reach:-reach] |= peak
    return float(peaks.mean()) if len(peaks) else 0.0


def write_page(out: Path, reports: list[Report]) -> Path:
    """Write ``out / 'summary.html'``; returns its path.

    Args:
        out: folder of the data set.
        reports: of all its recordings.
    """
    parts = sorted({part for r in reports for part in r.parts}, key=list(_COLORS).index)
    frames = sum(r.frames for r in reports)
    kept = frames - sum(r.static + r.close + r.apart + len(r.damaged) for r in reports)
    cards = [(f'{kept}', f'frames of {frames} kept')]
    cards += [
        (f'{sum(r.parts[p][2] for r in reports if p in r.parts)}', f'samples in {p or "all"}')
        for p in parts
    ]
    flow = np.array([f for r in reports for f in r.flow])
    if len(flow):
        cards.append((f'{np.median(flow):.1f} px', 'median motion between frames'))
    found = warnings(reports)
    cards.append((f'{len(found)}', 'warnings'))
    rows = [
        (
            r.name,
            r.frames,
            r.static,
            r.close,
            r.apart,
            len(r.damaged),
            *(r.parts.get(p, (0,))[0] for p in parts),
        )
        for r in reports
    ]
    total = ('all', *(sum(row[i] for row in rows) for i in range(1, len(rows[0]))))
    head = (
        'recording',
        'frames',
        'static',
        'too close',
        'between parts',
        'damaged',
        *(p or 'kept' for p in parts),
    )
    sections = [
        '<div class="cards">'
        + ''.join(f'<div><b>{value}</b>{text}</div>' for value, text in cards)
        + '</div>',
        _section(
            'Warnings',
            ''.join(f'<li><b>{escape(name)}</b> {escape(text)}</li>' for name, text in found)
            or '<li class="good">none</li>',
            'ul',
        ),
        _section('Frames', _table(head, rows + [total] * (len(rows) > 1))),
    ]
    for part in parts:
        pictures = ''.join(_examples(out / part, [r.name for r in reports if part in r.parts]))
        sections.append(_section(f'Examples: {part or "all"}', pictures, 'div class="grid"'))
    sections.append(
        _section('Motion', '<div class="charts">' + _histogram(flow) + _curve(reports) + '</div>')
    )
    sections.append(_section('Recordings', ''.join(map(_facts, reports))))
    page = _PAGE.format(title=escape(out.resolve().name), body='\n'.join(sections))
    write_file(out / 'summary.html', page)
    return out / 'summary.html'


def _section(title: str, content: str, element: str = 'div') -> str:
    return f'<section><h2>{escape(title)}</h2><{element}>{content}</{element.split()[0]}></section>'


def _table(head: Iterable[str], rows: Iterable[tuple]) -> str:
    """A table; the first column is text, the others are numbers."""
    top = ''.join(f'<th>{escape(name)}</th>' for name in head)
    body = ''.join(
        '<tr>' + ''.join(f'<td>{escape(str(cell))}</td>' for cell in row) + '</tr>' for row in rows
    )
    return f'<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'


def _examples(folder: Path, names: list[str]) -> Iterator[str]:
    """Pictures spread evenly over the sequences of a part."""
    images = [
        path
        for name in names
        for path in sorted((folder / name / 'images').iterdir())
        if path.suffix in IMAGE_SUFFIXES
    ]
    for index in np.unique(np.linspace(0, len(images) - 1, EXAMPLES).round().astype(int)):
        image = cv2.imread(str(images[index]))
        if image is None:
            continue
        size = 360, max(1, round(360 * image.shape[0] / image.shape[1]))
        data = cv2.imencode(
            '.jpg',
            cv2.resize(image, size, interpolation=cv2.INTER_AREA),
            [cv2.IMWRITE_JPEG_QUALITY, 85],
        )[1]
        label = escape(f'{images[index].parent.parent.name} {images[index].stem}')
        yield (
            f'<figure><img src="data:image/jpeg;base64,{_base64(data.tobytes())}" '
            f'alt="{label}"><figcaption>{label}</figcaption></figure>'
        )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _histogram(flow: np.ndarray) -> str:
    """How far the pictures move from one to the next."""
    figure = Figure(figsize=(5.4, 3))
    axes = figure.add_subplot()
    if len(flow):
        top = max(float(np.percentile(flow, 99)) * 1.1, 1.0)
        axes.hist(flow.clip(max=top), np.linspace(0, top, 31), color=_COLORS['train'])
    axes.set_xlabel('motion since the frame before, pixels (median flow)')
    axes.set_ylabel('frames')
    return _svg(figure, 'histogram of motion')


def _curve(reports: list[Report]) -> str:
    """Brightness of the pictures over time."""
    figure = Figure(figsize=(5.4, 3))
    axes = figure.add_subplot()
    for report in reports[:8]:
        axes.plot(
            np.linspace(0, 100, len(report.brightness)),
            report.brightness,
            linewidth=1,
            label=report.name,
        )
    if 1 < len(reports):
        axes.legend(fontsize=7, frameon=False)
    axes.set_ylim(0, 255)
    axes.set_xlabel('part of the recording, %')
    axes.set_ylabel('brightness')
    return _svg(figure, 'brightness over time')


def _svg(figure: Figure, alt: str) -> str:
    for axes in figure.axes:
        axes.spines[['top', 'right']].set_visible(False)
    stream = io.BytesIO()
    with rc_context({'svg.hashsalt': 'prepared', 'svg.fonttype': 'none'}):
        figure.savefig(stream, format='svg', metadata={'Date': None}, bbox_inches='tight')
    return (
        f'<figure><img src="data:image/svg+xml;base64,{_base64(stream.getvalue())}" '
        f'alt="{alt}"></figure>'
    )


def _facts(report: Report) -> str:
    facts = dict(report.facts)
    facts['size'] = f'{report.size[0]}x{report.size[1]} pixels'
    if report.intrinsics is None:
        facts['intrinsics'] = 'unknown'
    else:
        (fx, _, cx), (_, fy, cy), _ = report.intrinsics
        facts['intrinsics, as stored'] = f'fx {fx:.1f}, fy {fy:.1f}, cx {cx:.1f}, cy {cy:.1f}'
    rows = ''.join(
        f'<dt>{escape(key)}</dt><dd>{escape(value)}</dd>' for key, value in facts.items()
    )
    damaged = ''.join(f'<li>{escape(text)}</li>' for text in report.damaged)
    more = (
        (
            f'<details><summary>{len(report.damaged)} damaged images</summary><ul>{damaged}</ul>'
            '</details>'
        )
        if damaged
        else ''
    )
    return f'<h3>{escape(report.name)}</h3><dl>{rows}</dl>{more}'


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}: prepared</title>
<meta name="viewport" content="width=device-width">
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #1f2933; background: #f5f7f9; margin: 0; }}
main {{ max-width: 1160px; margin: 0 auto; padding: 24px; }}
h1 {{ font-size: 24px; margin: 0 0 16px; }}
h2 {{ font-size: 17px; margin: 0 0 12px; }}
h3 {{ font-size: 15px; margin: 18px 0 6px; }}
section {{ background: #fff; border: 1px solid #e3e8ed; border-radius: 8px; padding: 18px 20px;
  margin: 16px 0; overflow-x: auto; }}
.cards {{ display: flex; flex-wrap: wrap; gap: 12px; }}
.cards div {{ flex: 1; min-width: 120px; background: #fff; border: 1px solid #e3e8ed;
  border-radius: 8px; padding: 12px 16px; color: #64707d; }}
.cards b {{ display: block; font-size: 24px; color: #1f2933; }}
ul {{ margin: 0; padding-left: 20px; }}
li b {{ color: #b4540a; }}
li.good {{ color: #2f9e63; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ padding: 6px 10px; text-align: right; border-bottom: 1px solid #e8ecf0; }}
th {{ color: #64707d; font-weight: 500; }}
th:first-child, td:first-child {{ text-align: left; }}
.grid {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(250px, 1fr)); gap: 10px; }}
.charts {{ display: flex; flex-wrap: wrap; gap: 16px; }}
.charts figure {{ flex: 1; min-width: 300px; }}
figure {{ margin: 0; }}
img {{ width: 100%; border-radius: 4px; display: block; }}
figcaption {{ color: #64707d; font-size: 12px; }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; margin: 0; }}
dt {{ color: #64707d; }}
dd {{ margin: 0; overflow-wrap: anywhere; }}
</style></head>
<body><main><h1>{title}</h1>
{body}
</main></body></html>
"""
