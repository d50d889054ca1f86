"""The report of an evaluation: one HTML file that needs nothing else, with every picture inside."""

from __future__ import annotations

import io
import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from depth_ros.core.metrics.depth import ALIGNED
from depth_ros.evaluation import page
from depth_ros.evaluation.page import BLUE, INK, ORANGE, number
from depth_ros.files import write_file
from depth_ros.inference.contract import ModelContract, SemanticClass

if TYPE_CHECKING:
    from depth_ros.evaluation.frame_evaluator import Evaluation, Picture

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

AGE = 'age when received'

MAX_CONFUSION = 20
"""Classes above which a confusion matrix is no longer a thing to look at."""

ERROR_LIMIT = 0.5
"""Relative depth error that the dark end of its colours stands for."""

_CONSISTENCY = (
    (
        'photometric',
        'photometric error',
        '.4f',
        '',
        'How much each image differs from the one before it, moved by the predicted depth '
        'and motion. '
        'Good: far below the next row.',
    ),
    (
        'photometric_static',
        '… of the still image',
        '.4f',
        '',
        'The same with the image before left where it is: what there is to explain.',
    ),
    (
        'explained_percent',
        'explained',
        '.0f',
        ' %',
        'The share of that change which depth and motion explain. Good: high. At 0 and below they '
        'explain nothing, or the camera stands still.',
    ),
    (
        'inconsistency',
        'depth inconsistency',
        '.3f',
        '',
        'How much the depths of one point in two images differ, |a − b| / (a + b). Good: near '
        '0; at '
        '0.1 they are a fifth apart.',
    ),
    (
        'scale_step_spread_percent',
        'spread of scale steps',
        '.2f',
        ' %',
        'How unevenly depth grows or shrinks from frame to frame. Good: near 0.',
    ),
    (
        'scale_drift_percent_per_minute',
        'drift of scale',
        '.1f',
        ' % per minute',
        'How the scale of depth wanders. Good: near 0; otherwise what is seen early and late '
        'does not '
        'fit together.',
    ),
    (
        'loop_translation_percent',
        'loop, translation',
        '.1f',
        ' %',
        'Two steps of the odometry against one direct step over both, as a share of the way. Good: '
        'near 0.',
    ),
    ('loop_rotation_deg', 'loop, rotation', '.3f', '°', 'The same for the rotation. Good: near 0.'),
)
"""Numbers that need no ground truth: key, name, format, unit, and what they mean."""

_TURBO = cv2.applyColorMap(np.arange(256, dtype=np.uint8), cv2.COLORMAP_TURBO)[:, 0, ::-1]
_TURBO_MAP = np.ascontiguousarray(_TURBO[:, None])  # as OpenCV wants it
# Light to dark: the truth is often sparse, and points must stand out of the darkened camera image.
_HEAT = np.stack(
    [
        np.interp(np.linspace(0, 4, 256), np.arange(5), channel)
        for channel in ((255, 254, 253, 227, 128), (255, 217, 141, 26, 0), (204, 118, 60, 28, 38))
    ],
    axis=-1,
).astype(np.uint8)


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
        frames: Columns of the per-frame table, (N,) each; NaN = unknown.
        evaluation: Pictures and trajectories.
        contracts: The models' contracts by node; a node that was not judged is missing.
    """
    write_file(out / 'report.html', _page(found, frames, evaluation, contracts))
    if evaluation.pictures:
        write_file(out / 'overview.jpg', _overview(evaluation, contracts))


# Pictures ---------------------------------------------------------------------------------------


def color_depth(depth: np.ndarray, near: float) -> np.ndarray:
    """Colour depth by its inverse: `near` and nearer is red, infinity dark blue, invalid black.

    Args:
        depth: float32 (H, W), any unit; NaN = invalid.
        near: Depth in the same unit.

    Returns:
        uint8 (H, W, 3), RGB.
    """
    level = np.divide(np.float32(255 * near), depth, dtype=np.float32)
    np.clip(level, 0, 255, out=level)
    invalid = np.isnan(depth)
    level[invalid] = 0
    colored = cv2.applyColorMap(level.astype(np.uint8), _TURBO_MAP)
    colored[invalid] = 0
    return colored


def color_error(error: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    """Colour relative errors, pale to dark red at `ERROR_LIMIT`, over the darkened camera image.

    Args:
        error: float32 (H, W); NaN = unknown.
        rgb: uint8 (H', W', 3).

    Returns:
        uint8 (H, W, 3), RGB.
    """
    known = np.isfinite(error)
    level = np.clip(np.where(known, error, 0) / ERROR_LIMIT, 0, 1)
    return np.where(
        known[..., None], _HEAT[(level * 255).astype(np.uint8)], _grey(rgb, error.shape) // 3
    )


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
    palette = np.zeros((256, 1, 3), np.uint8)
    for item in classes:
        palette[item.id] = item.color
    colored = cv2.applyColorMap(labels, palette)
    if rgb is None:
        return colored
    grey = _grey(rgb, labels.shape)
    return np.where(
        (labels < len(classes))[..., None], cv2.addWeighted(colored, 0.65, grey, 0.35, 0), grey
    )


def _grey(rgb: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    grey = cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if grey.shape[:2] != shape:
        grey = cv2.resize(grey, shape[::-1], interpolation=cv2.INTER_AREA)
    return grey


def _thicker(values: np.ndarray) -> np.ndarray:
    """Spread the points of a lidar to their neighbours: they would vanish in a small picture."""
    known = np.isfinite(values)
    if known.mean() > 0.2:
        return values
    spread = cv2.dilate(np.where(known, values, -1).astype(np.float32), np.ones((3, 3)))
    return np.where(known, values, np.where(spread >= 0, spread, np.nan))


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


class _Gallery:
    """Draws frames with the same colours."""

    def __init__(
        self,
        pictures: Sequence[Picture],
        start: float,
        contract: ModelContract | None,
        true_names: Sequence[str],
    ) -> None:
        self._pictures, self._start = pictures, start
        self._near = _near(pictures)
        self._metric = bool(contract and contract.metric)
        self._affine = bool(contract and contract.affine_invariant)
        self._classes = contract.classes if contract else ()
        # Ground truth may have classes of its own; those of the same name get the same colour.
        colors = {c.name: c.color for c in self._classes}
        self._true_classes = [
            SemanticClass(index, name, colors.get(name, (190, 190, 190)))
            for index, name in enumerate(true_names)
        ]

    def time(self, picture: Picture) -> str:
        """Time of a frame since the first one."""
        return f'{picture.stamp_ns / 1e9 - self._start:.1f} s'

    def depth(self, picture: Picture) -> np.ndarray:
        return color_depth(_to_scale(picture, self._metric or self._affine), self._near)

    def true_depth(self, picture: Picture) -> np.ndarray:
        return color_depth(_thicker(picture.true_depth), self._near)

    def error(self, picture: Picture) -> np.ndarray:
        return color_error(_thicker(picture.error), picture.rgb)

    def masks(self, picture: Picture) -> np.ndarray:
        return color_labels(picture.labels, self._classes, picture.rgb)

    def true_masks(self, picture: Picture) -> np.ndarray:
        return color_labels(picture.true_labels, self._true_classes, picture.rgb)

    def bars(self) -> str:
        """Colours of depth and its error."""
        pictures, bars = self._pictures, []
        truth = any(p.true_depth is not None for p in pictures)
        if any(p.depth is not None for p in pictures):
            marks = [(100 * (1 - 1 / f), f'{self._near * f:.3g}') for f in (1, 1.5, 2.5, 6)]
            unit = 'm' if self._metric or truth else 'model units'
            note = 'Depth; black has none, as the sky.'
            if truth and not self._metric:
                note += (
                    ' Scale and shift of each prediction are fitted to the truth.'
                    if self._affine
                    else ' Each prediction is scaled to the median of the truth.'
                )
            marks.append((100, f'∞ {unit}'))
            if self._affine and not truth:
                marks = [(0, 'near'), (100, 'far')]
            bars.append(_color_bar(note, _TURBO[::-15], marks))
        if any(p.error is not None for p in pictures):
            marks = [(x, f'{ERROR_LIMIT * x:.0f} %') for x in (0, 50)]
            bars.append(
                _color_bar(
                    'Relative error of depth after '
                    f'{"fitting scale and shift" if self._affine else "median scaling"}; no colour '
                    'where the truth is unknown.',
                    _HEAT[::17],
                    [*marks, (100, f'{100 * ERROR_LIMIT:.0f} % and more')],
                )
            )
        return f'<div class="bars">{"".join(bars)}</div>' if bars else ''

    def legend(self) -> str:
        """Colours of the classes that are seen."""
        seen = {
            self._classes[i].name
            for p in self._pictures
            if p.labels is not None
            for i in np.unique(p.labels)
            if i < len(self._classes)
        }
        seen |= {
            self._true_classes[i].name
            for p in self._pictures
            if p.true_labels is not None
            for i in np.unique(p.true_labels)
            if i < len(self._true_classes)
        }
        names = ''.join(
            f'<span><i style="background:rgb{c.color}"></i>{escape(c.name)}</span>'
            for c in self._classes
            if c.name in seen
        )
        return f'<p class="legend">{names}</p>' if names else ''

    def example(self, picture: Picture) -> str:
        """One frame: what came out in a row, and error and truth below it."""
        above = [_captioned(picture.rgb, f'Camera image at {self.time(picture)}')]
        below = [
            _captioned(self.error(picture), 'Error of depth')
            if picture.error is not None
            else '<div></div>'
        ]
        if picture.depth is not None:
            above.append(_captioned(self.depth(picture), 'Depth'))
            if picture.true_depth is not None:
                text = 'True depth'
                if picture.abs_rel is not None:
                    text += f' (Abs Rel {picture.abs_rel:.3f})'
                below.append(_captioned(self.true_depth(picture), text))
            else:
                below.append('<div></div>')
        if picture.labels is not None:
            above.append(_captioned(self.masks(picture), 'Masks'))
            if picture.true_labels is not None:
                below.append(_captioned(self.true_masks(picture), 'True masks'))
            else:
                below.append('<div></div>')
        truth = picture.true_depth is not None or picture.true_labels is not None
        return (
            f'<div class="frame columns{len(above)}">{"".join(above)}'
            f'{"".join(below) if truth else ""}</div>'
        )

    def worst(self, picture: Picture) -> str:
        """One of the worst frames, in one row."""
        images = {'Camera': picture.rgb}
        if picture.depth is not None:
            images['Depth'] = self.depth(picture)
            if picture.true_depth is not None:
                images['True depth'] = self.true_depth(picture)
            if picture.error is not None:
                images['Error of depth'] = self.error(picture)
        if picture.labels is not None and len(images) < 3:
            images['Masks'] = self.masks(picture)
            if picture.true_labels is not None and len(images) < 4:
                images['True masks'] = self.true_masks(picture)
        error = f': Abs Rel {picture.abs_rel:.3f}' if picture.abs_rel is not None else ''
        shown = ''.join(_captioned(image, name, page.SMALL_AREA) for name, image in images.items())
        return (
            f'<div class="frame worst columns{len(images)}"><div class="title">'
            f'<b>{picture.rank}</b>at {self.time(picture)}{error}</div>{shown}</div>'
        )


def _captioned(rgb: np.ndarray, text: str, area: int = page.PICTURE_AREA) -> str:
    return f'<figure>{page.image(rgb, text, area)}<figcaption>{text}</figcaption></figure>'


def _color_bar(note: str, colors: np.ndarray, marks: Iterable[tuple[float, str]]) -> str:
    """A bar of colours with texts at percents of its width."""
    stops = ', '.join(f'rgb({r},{g},{b})' for r, g, b in colors)
    texts = ''.join(f'<span style="left:{x:.0f}%">{text}</span>' for x, text in marks)
    return (
        f'<div>{page.caption(note)}<div class="bar" style="background:linear-gradient(to right,'
        f' {stops})"></div><div class="marks">{texts}</div></div>'
    )


def _overview(evaluation: Evaluation, contracts: Mapping[str, ModelContract]) -> bytes:
    """One frame in the middle, and the trajectory, as a JPEG."""
    examples = [p for p in evaluation.pictures if not p.rank] or evaluation.pictures
    picture = examples[len(examples) // 2]
    gallery = _Gallery([picture], 0, contracts.get('perception_node'), ())
    panels = [('camera', picture.rgb)]
    if picture.depth is not None:
        panels.append(('depth', gallery.depth(picture)))
    if picture.labels is not None:
        panels.append(('masks', gallery.masks(picture)))
    moving = len(evaluation.estimate) > 1
    rows = (len(panels) + moving + 1) // 2
    height = 6 * picture.rgb.shape[0] / picture.rgb.shape[1] + 0.35
    with rc_context(page.STYLE):
        figure = Figure(figsize=(12, rows * height), layout='constrained')
        for index, (title, image) in enumerate(panels):
            axes = figure.add_subplot(rows, 2, index + 1)
            axes.imshow(image)
            axes.set_title(title, fontsize=11, loc='left')
            axes.axis('off')
        if moving:
            axes = figure.add_subplot(rows, 2, len(panels) + 1)
            _draw_trajectory(axes, evaluation, contracts)
            axes.set_title('trajectory from above', fontsize=11, loc='left')
        stream = io.BytesIO()
        figure.savefig(stream, format='jpeg', dpi=110, pil_kwargs={'quality': 88})
    return stream.getvalue()


# Head -------------------------------------------------------------------------------------------


def _heading(contracts: Mapping[str, ModelContract]) -> str:
    perception = contracts.get('perception_node')
    out = [
        name
        for output, name in (('depth', 'depth'), ('labels', 'masks'))
        if perception and output in perception.outputs
    ]
    if 'odometry_node' in contracts:
        out.append('odometry')
    return f'One camera in; {", ".join(out[:-1])}{" and " if out[1:] else ""}{out[-1]} out'


def _lead(found: Mapping, evaluation: Evaluation) -> str:
    name = escape(Path(found['recording']).resolve().name)
    text = f'{found["frames"]["recorded"]} images'
    if evaluation.pictures:
        height, width = evaluation.pictures[0].rgb.shape[:2]
        text += f', {width}x{height} pixels'
    timing = found.get('timing')
    if timing and timing['median_period_s']:
        text += f', {timing["duration_s"]:.0f} s at {1 / timing["median_period_s"]:.1f} Hz'
    how = (
        'replayed through the ROS 2 nodes'
        if found['mode'] == 'live'
        else 'judged one by one, offline'
    )
    return f'<p class="lead">depth_ros on the recording <strong>{name}</strong>: {text}, {how}.</p>'


def _cards(found: Mapping, contracts: Mapping[str, ModelContract]) -> str:
    frames, cards = found['frames'], []
    text = 'frames came out' if found['mode'] == 'live' else 'frames judged'
    if found.get('dropped_percent') is not None:
        text += f'; {found["dropped_percent"]:.1f} % dropped'
    cards.append(page.card(f'{frames["judged"]} / {frames["recorded"]}', '', text))
    if time := _time_card(found):
        cards.append(time)
    if depth := found.get('depth'):
        name = next(n for n in ALIGNED if n in depth['rows'])
        scaled, published = depth['rows'][name], depth['rows'].get('as_published')
        text = f'depth Abs Rel, {row_name(name)}'
        if published:
            text += f'; {number(published["abs_rel"])} as published, in metres'
        cards.append(page.card(number(scaled['abs_rel']), '', text))
    if semantics := found.get('semantics'):
        road, mean = semantics['iou'].get('road'), number(semantics['mean_iou'])
        cards.append(
            page.card(mean, '', 'mean IoU')
            if road is None
            else page.card(number(road), '', f'road IoU; mean IoU {mean}')
        )
    odometry = found.get('odometry')
    if t := found.get('trajectory'):
        cards.append(
            page.card(
                number(t['ate_sim3'], '.2f'),
                'm',
                'trajectory error (ATE, aligned with scale) over '
                f'{t["length"]:.0f} m; {number(t["ate_se3"], ".2f")} m without scaling',
            )
        )
    elif odometry and odometry['poses']:
        unit = 'm' if contracts['odometry_node'].metric else 'units'
        cards.append(page.card(f'{odometry["length"]:.1f}', unit, 'travelled, by the odometry'))
    consistency = found.get('consistency')
    if consistency and 'explained_percent' in consistency and not found.get('depth'):
        cards.append(
            page.card(
                number(consistency['explained_percent'], '.0f'),
                '%',
                'of the change from image to image explained by depth and motion',
            )
        )
    return f'<div class="cards">{"".join(cards)}</div>'


def _time_card(found: Mapping) -> str:
    latency = next((v for v in (found.get('latency_ms') or {}).values() if v), None)
    speed = found.get('speed')
    if found['mode'] == 'live' and latency:
        return page.card(
            f'{latency["p50"]:.0f}',
            'ms',
            'median latency, image published to output '
            f'received; 95 % under {latency["p95"]:.0f} ms',
        )
    if speed and speed.get('frames_per_s'):
        text = 'judged'
        if latency:
            text += f'; inference takes {latency["p50"]:.0f} ms, 95 % under {latency["p95"]:.0f} ms'
        return page.card(f'{speed["frames_per_s"]:.1f}', 'frames/s', text)
    return ''


# Sections ---------------------------------------------------------------------------------------


def _frames_section(gallery: _Gallery, pictures: Sequence[Picture]) -> str:
    examples = [p for p in pictures if not p.rank]
    if not examples:
        return ''
    shown = ''.join(map(gallery.example, examples))
    return page.section('frames', 'Frames', gallery.bars() + gallery.legend() + shown)


def _worst_section(gallery: _Gallery, pictures: Sequence[Picture]) -> str:
    worst = sorted((p for p in pictures if p.rank), key=lambda p: p.rank)
    if not worst:
        return ''
    by = 'Abs Rel' if any(p.abs_rel is not None for p in worst) else 'photometric error'
    return page.section(
        'worst',
        'Worst frames',
        (
            page.caption(f'The {len(worst)} frames of the highest {by}, the worst first.')
            + gallery.bars()
            + ''.join(map(gallery.worst, worst))
        ),
    )


def _depth_section(found: Mapping) -> str:
    depth = found.get('depth')
    if not depth:
        return ''
    rows = depth['rows']
    general = {key: row for key, row in rows.items() if not key.startswith('class:')}
    body = page.table(
        ('', *DEPTH_METRICS.values()),
        [(row_name(key), *(number(row[m]) for m in DEPTH_METRICS)) for key, row in general.items()],
    )
    scale = (
        f' The factor to the true scale is {number(depth["scale_median"])}, with a spread of '
        f'{_percent(depth["scale_spread"])}'
    )
    drift = depth['scale_drift_percent_per_minute']
    scale += '.' if drift is None else f' and a drift of {number(drift, ".1f")} % per minute.'
    body += page.caption(
        f'Mean over {depth["frames"]} frames. Pixels with a true depth under 80 m and a predicted '
        'one count; all rows but those as published are median-scaled: each frame is multiplied '
        'by the ratio of the median depths. The first four: lower is better; the last three: '
        f'higher. Depth is published for {_percent(depth["coverage"])} of the pixels whose true '
        f'depth is known.{scale}'
    )
    halves = []
    if edges := distance_bands(rows):
        drawn = page.figure(
            lambda f: _draw_bands(f.add_subplot(), edges), (5.2, 3.2), 'depth error over distance'
        )
        halves.append(f'<div><h3>Error over distance</h3>{drawn}</div>')
    by_class = {
        row_name(key): row['abs_rel']
        for key, row in rows.items()
        if key.startswith('class:') and row['abs_rel'] is not None
    }
    if by_class:
        ordered = dict(sorted(by_class.items(), key=lambda item: item[1]))
        bars = page.meters(('class', 'Abs Rel'), ordered, max(ordered.values()))
        halves.append(f'<div><h3>Error by class</h3>{bars}</div>')
    if halves:
        body += f'<div class="half">{"".join(halves)}</div>'
    return page.section('depth', 'Depth against ground truth', body)


def row_name(key: str) -> str:
    """Return how a row of the depth table is called on a page."""
    name = key.removeprefix('class:').replace('_50m', ', up to 50 m').replace('_', ' ')
    name = re.sub(r'^(\d+) to (\d+)m$', r'\1 to \2 m', name)
    return name.replace('median scaled', 'median-scaled')


def distance_bands(rows: Mapping[str, Mapping]) -> list[tuple[float, float, float]]:
    """Return nearest and farthest distance, metres, and Abs Rel of the rows that are bands."""
    found = []
    for key, row in rows.items():
        match = re.fullmatch(r'(\d+)_to_(\d+)m', key)
        if match and row['abs_rel'] is not None:
            found.append((float(match[1]), float(match[2]), row['abs_rel']))
    return found


def _draw_bands(axes: Axes, bands: Sequence[tuple[float, float, float]]) -> None:
    for low, high, error in bands:
        axes.bar(
            low,
            error,
            width=high - low,
            align='edge',
            color=BLUE,
            alpha=0.8,
            edgecolor='white',
            linewidth=2,
        )
        axes.annotate(
            f'{error:.3f}',
            ((low + high) / 2, error),
            (0, 2),
            ha='center',
            va='bottom',
            textcoords='offset points',
            fontsize=9,
        )
    axes.set_xticks(sorted({edge for low, high, _ in bands for edge in (low, high)}))
    axes.set_xlabel('true distance, m')
    axes.set_ylabel('Abs Rel')
    axes.margins(y=0.12)
    axes.grid(axis='x', visible=False)


def _time_panels(frames: Mapping[str, np.ndarray]) -> list[tuple[str, dict[str, np.ndarray]]]:
    """What is drawn over time: titles, and curves by label; only what is known anywhere."""
    panels = []
    for title, columns in (
        ('depth, Abs Rel', {'abs_rel': 'median-scaled', 'abs_rel_published': 'as published'}),
        ('scale to the truth', {'scale': ''}),
        ('labels right, share', {'label_accuracy': ''}),
        ('position error, m', {'position_error': ''}),
        ('photometric error', {'photometric': 'moved', 'photometric_static': 'still'}),
        ('depth inconsistency', {'inconsistency': ''}),
        ('scale step', {'scale_step': ''}),
    ):
        curves = {
            label: frames[name]
            for name, label in columns.items()
            if name in frames and np.isfinite(frames[name]).any()
        }
        if curves:
            panels.append((title, curves))
    return panels


def _over_time_section(
    found: Mapping, frames: Mapping[str, np.ndarray], evaluation: Evaluation
) -> str:
    panels = _time_panels(frames)
    if not panels:
        return ''
    seconds = frames['stamp'] - frames['stamp'][0]
    gaps = (found.get('timing') or {}).get('gaps', [])
    worst = [p.stamp_ns / 1e9 - frames['stamp'][0] for p in evaluation.pictures if p.rank]

    def draw(figure: Figure) -> None:
        stacked = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (title, curves) in zip(stacked, panels, strict=True):
            for begin, length in gaps:
                axes.axvspan(begin, begin + length, color='#f1d9c3', linewidth=0)
            for (label, values), color in zip(curves.items(), page.SERIES, strict=False):
                page.draw_over_time(axes, seconds, values, color, label)
            axes.set_title(title, fontsize=10, loc='left', color=INK)
            if len(curves) > 1:
                page.legend_above(axes)
        for second in worst:
            stacked[0].axvline(second, color=ORANGE, linewidth=0.9, linestyle=':')
        stacked[-1].set_xlabel('time, s')
        stacked[-1].set_xlim(0, max(seconds[-1], 1e-3))

    drawn = page.figure(draw, (11, 1.25 * len(panels) + 0.5), 'errors over time')
    text = 'Each frame; in long recordings the median and, paler, the range of neighbours.'
    if worst:
        text += ' Dotted: the worst frames.'
    if gaps:
        text += ' Shaded: no images.'
    return page.section('time', 'Over time', drawn + page.caption(text))


def _semantics_section(found: Mapping) -> str:
    semantics = found.get('semantics')
    if not semantics:
        return ''
    scores = {name: value for name, value in semantics['iou'].items() if value is not None}
    bars = page.meters(('class', 'IoU'), dict(sorted(scores.items(), key=lambda i: -i[1])), 1.0)
    body = bars + page.caption(
        f'Intersection over union over all pixels of {semantics["frames"]} frames, for the classes '
        f'that the ground truth has; mean {number(semantics["mean_iou"])}, and '
        f'{_percent(semantics["pixel_accuracy"])} of the pixels are right.'
    )
    matrix = _confusion_table(semantics)
    if matrix:
        body = f'<div class="half semantics"><div>{body}</div>{matrix}</div>'
    return page.section('semantics', 'Semantics against ground truth', body)


def _confusion_table(semantics: Mapping) -> str:
    """The confusion matrix in percents of the true class, of the classes that occur."""
    counts = np.array(semantics['confusion'], np.float64)
    names = [*semantics['classes'], 'unlabelled'][: counts.shape[1]]
    rows, columns = np.flatnonzero(counts.sum(axis=1)), np.flatnonzero(counts.sum(axis=0))
    if not 1 < len(rows) <= MAX_CONFUSION or len(columns) > MAX_CONFUSION + 1:
        return ''
    head = ''.join(f'<th>{escape(names[c])}</th>' for c in columns)
    body = ''
    for row in rows:
        shares = counts[row] / counts[row].sum()
        cells = ''.join(
            f'<td style="background:rgba(31,111,235,{shares[c]:.2f});'
            f'color:{"#fff" if shares[c] > 0.55 else INK}">'
            f'{f"{100 * shares[c]:.0f}" if shares[c] >= 0.005 else ""}</td>'
            for c in columns
        )
        body += f'<tr><th>{escape(names[row])}</th>{cells}</tr>'
    return (
        '<div><div class="wide"><table class="confusion"><thead><tr><th></th>'
        f'{head}</tr></thead><tbody>{body}</tbody></table></div>'
        + page.caption('What the pixels of each true class (row) are taken for, in percent.')
        + '</div>'
    )


def _draw_trajectory(
    axes: Axes, evaluation: Evaluation, contracts: Mapping[str, ModelContract]
) -> None:
    aligned = len(evaluation.aligned) > 1
    name, path = (
        ('odometry, aligned', evaluation.aligned) if aligned else ('odometry', evaluation.estimate)
    )
    metric = aligned or contracts['odometry_node'].metric
    page.draw_paths(axes, evaluation.truth, {name: path}, 'm' if metric else 'model units')


def _trajectory_section(
    found: Mapping, evaluation: Evaluation, contracts: Mapping[str, ModelContract]
) -> str:
    if len(evaluation.estimate) < 2:
        return ''
    drawn = page.figure(
        lambda f: _draw_trajectory(f.add_subplot(), evaluation, contracts),
        (7, 4.4),
        'trajectory from above',
    )
    unit = 'm' if contracts['odometry_node'].metric else 'model units'
    odometry = found['odometry']
    text, side = f'Path of {odometry["length"]:.1f} {unit} by the odometry, from above.', ''
    if t := found.get('trajectory'):
        text = (
            'From above. The odometry is aligned with scale; ATE is the RMSE of position after '
            'the alignment, RPE that of the steps from pose to pose.'
        )
        side = page.table(
            ('aligned', 'ATE, m', 'RPE, m'),
            [
                (name, number(t[f'ate_{key}']), number(t[f'rpe_{key}'], '.4f'))
                for key, name in ALIGNMENTS.items()
            ],
        )
        rows = [
            ('length of the true path', f'{t["length"]:.2f} m'),
            ('ATE (Sim3) / length', f'{number(100 * t["ate_sim3"] / t["length"], ".2f")} %'),
            ('rotation RPE', f'{number(t["rpe_rotation_deg"], ".4f")}°'),
            ('scale of the alignment', number(t['scale'], '.4f')),
            ('poses compared', f'{t["poses"]:.0f}'),
        ]
        if t.get('segments'):
            rows += [
                ('KITTI drift, as it is', f'{number(t["t_err_se3"], ".2f")} %'),
                ('KITTI drift, scaled', f'{number(t["t_err_sim3"], ".2f")} %'),
                ('KITTI drift of rotation', f'{number(t["r_err"], ".2f")}°/100 m'),
                ('segments of 100 to 800 m', f'{t["segments"]:.0f}'),
            ]
        side = f'<div>{side}{page.table(("", "value"), rows)}</div>'
    if missed := odometry.get('missed'):
        reasons = ', '.join(f'{reason} ({count} times)' for reason, count in missed.items())
        text += f' Steps that are missing: {reasons}.'
    return page.section(
        'trajectory',
        'Trajectory',
        (
            f'<div class="split"><figure>{drawn}<figcaption>{escape(text)}</figcaption></figure>'
            f'{side}'
            '</div>'
        ),
    )


def _consistency_section(found: Mapping) -> str:
    c = found.get('consistency')
    if not c:
        return ''
    rows = [
        (name, number(c[key], form) + unit, meaning)
        for key, name, form, unit, meaning in _CONSISTENCY
        if c.get(key) is not None
    ]
    body = page.caption(
        'What the model says of neighbouring images must agree with itself: this needs no ground '
        'truth. A model can be consistent and wrong, but not right and inconsistent.'
    )
    return page.section(
        'consistency',
        'Consistency',
        body + page.table(('', 'value', 'what it means'), rows, 'meaning'),
    )


def _latency_section(found: Mapping, frames: Mapping[str, np.ndarray]) -> str:
    live = found['mode'] == 'live'
    shown = {}
    for column, label in (
        ('perception_ms', 'perception'),
        ('odometry_ms', 'odometry'),
        ('age_ms', AGE),
    ):
        values = frames.get(column, np.empty(0))
        if np.isfinite(values).any():
            shown[label] = values[np.isfinite(values)]
    left = ''
    if shown:
        what = (
            'from publishing the image to receiving the output, ms'
            if live
            else 'inference of a frame, ms'
        )
        drawn = page.figure(
            lambda f: _draw_histogram(f.add_subplot(), shown, what),
            (7, 3.4),
            'histogram of latencies',
        )
        text = 'Every frame; dashed: the median.'
        if live:
            text += ' Both ends read the same clock.'
        left = f'<figure>{drawn}<figcaption>{text}</figcaption></figure>'
    right = ''
    rows = {**(found.get('latency_ms') or {}), 'age': found.get('age_ms')}
    rows = [
        (name, *(number(v.get(k), '.1f') for k in ('p50', 'p95', 'p99', 'max')))
        for name, v in rows.items()
        if v
    ]
    if rows:
        right += page.table(('ms', 'median', '95 %', '99 %', 'max'), rows)
    if stages := found.get('stages_ms'):
        names = list(dict.fromkeys(s for times in stages.values() for s in times))
        right += '<h3>Inside the nodes</h3>' if live else '<h3>Stages</h3>'
        right += page.table(
            ('median, ms', *(n.removesuffix('_node') for n in stages)),
            [
                (name, *(number(times.get(name), '.2f') for times in stages.values()))
                for name in names
            ],
        )
        if live:
            right += page.caption(
                'From their diagnostics. Overhead is all but inference; latency '
                "runs from the image's arrival to the last publication."
            )
    if (speed := found.get('speed')) and speed.get('frames_per_s'):
        text = f'The evaluation ran at {speed["frames_per_s"]:.1f} frames/s'
        if speed.get('frames_per_s_without_inference'):
            rate = speed['frames_per_s_without_inference']
            text += f'; without inference it would at {rate:.1f}'
        right += page.caption(f'{text}.')
    if not left and not right:
        return ''
    return page.section(
        'latency',
        'Latency' if live else 'Speed',
        f'<div class="split">{left}<div>{right}</div></div>',
    )


def _draw_histogram(axes: Axes, values: Mapping[str, np.ndarray], what: str) -> None:
    top = max(float(np.percentile(v, 99.5)) for v in values.values()) * 1.1
    bins = np.linspace(0, top, 41)
    for (name, times), color in zip(values.items(), page.SERIES, strict=False):
        # Where age is latency, as at normal speed, its outline leaves the other visible.
        axes.hist(
            np.minimum(times, top),
            bins,
            color=color,
            alpha=0.7,
            label=name,
            histtype='step' if name == AGE else 'bar',
            linewidth=1.5,
        )
        axes.axvline(float(np.median(times)), color=color, linewidth=1.2, linestyle='--')
    axes.set_xlabel(what)
    axes.set_ylabel('frames')
    axes.grid(axis='x', visible=False)
    axes.legend(loc='best', fontsize=9)


def _made_section(found: Mapping, contracts: Mapping[str, ModelContract]) -> str:
    live = found['mode'] == 'live'
    rows = [('recording', found['recording'])]
    rows += [(f'topic of {name}', str(topic)) for name, topic in found['topics'].items() if topic]
    rows += _timing_rows(found.get('timing'))
    rows += [
        (f'skipped: {reason}', str(count))
        for reason, count in found['frames'].get('skipped', {}).items()
    ]
    if live:
        late = found.get('player_latest_ms')
        text = f'at {found["rate"]:g} times its speed'
        rows.append(('replay', text if late is None else f'{text}; at worst {late:.0f} ms late'))
    for node, contract in contracts.items():
        model = found['models'][node]
        scale = (
            'metric'
            if contract.metric
            else 'up to scale and shift'
            if contract.affine_invariant
            else 'up to scale'
        )
        rows.append(
            (
                node,
                ', '.join(
                    str(part)
                    for part in (
                        contract.name,
                        model.get('version'),
                        f'{contract.input_width}x{contract.input_height}',
                        scale,
                        model.get('backend'),
                        f'{model["threads"]} threads' if model.get('threads') else None,
                        model['path'],
                    )
                    if part
                ),
            )
        )
        rows += [
            (f'{contract.name}: {key}', str(value)) for key, value in contract.provenance.items()
        ]
    rows += [
        (name.replace('_', ' '), _plain(value))
        for name, value in found['settings'].items()
        if value is not None
    ]
    rows += [
        ('machine', f'{_processor()}, {os.cpu_count()} processors, {platform.system()}'),
        ('software', f'Python {platform.python_version()}, {", ".join(_versions())}'),
        ('made', datetime.now().astimezone().strftime('%Y-%m-%d %H:%M %Z')),
    ]
    how = (
        'The recording was replayed with its clock through the nodes, and what they published '
        'was recorded. Player, nodes and recorder are processes of their own and talk over DDS. '
        'The numbers are computed from the recorded messages.'
        if live
        else 'Every image of the recording went through the networks as in the nodes, one '
        'after the '
        'other, without ROS 2 in between and without dropping any.'
    )
    said = ''
    if found.get('node_messages'):
        items = ''.join(f'<li>{escape(m)}</li>' for m in found['node_messages'])
        said = f'<h3>What the nodes said</h3><ul class="said">{items}</ul>'
    return page.section('made', 'How this was made', f'<p>{how}</p>{page.definitions(rows)}{said}')


def _timing_rows(timing: Mapping | None) -> list[tuple[str, str]]:
    if not timing:
        return []
    rows = []
    if gaps := timing['gaps']:
        begin, length = max(gaps, key=lambda gap: gap[1])
        rows.append(('gaps', f'{len(gaps)}; the longest of {length:.2f} s at {begin:.1f} s'))
    if timing['clock_jumps']:
        rows.append(('jumps of the clock', str(timing['clock_jumps'])))
    if timing['duplicate_stamps']:
        rows.append(('stamps that occur twice', str(timing['duplicate_stamps'])))
    return rows


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    return f'{value:g}' if isinstance(value, float) else str(value)


def _percent(share: float | None) -> str:
    return f'{number(None if share is None else 100 * share, ".1f")} %'


def _processor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return platform.machine()
    return next(
        (line.partition(':')[2].strip() for line in lines if line.startswith('model name')),
        platform.machine(),
    )


def _versions() -> list[str]:
    found = []
    for name in ('rclpy', 'onnxruntime', 'openvino', 'numpy', 'rosbags'):
        try:
            found.append(f'{name} {version(name)}')
        except PackageNotFoundError:
            continue
    return found


# Page -------------------------------------------------------------------------------------------


def _page(
    found: Mapping,
    frames: Mapping[str, np.ndarray],
    evaluation: Evaluation,
    contracts: Mapping[str, ModelContract],
) -> str:
    start = frames['stamp'][0] if len(frames['stamp']) else 0.0
    gallery = _Gallery(
        evaluation.pictures,
        start,
        contracts.get('perception_node'),
        (found.get('semantics') or {}).get('classes', ()),
    )
    consistency = _consistency_section(found)
    truth = found.get('depth') or found.get('semantics') or found.get('trajectory')
    sections = [
        '' if truth else consistency,  # the only judgement there is
        _frames_section(gallery, evaluation.pictures),
        _worst_section(gallery, evaluation.pictures),
        _depth_section(found),
        _over_time_section(found, frames, evaluation),
        _trajectory_section(found, evaluation, contracts),
        _semantics_section(found),
        consistency if truth else '',
        _latency_section(found, frames),
        _made_section(found, contracts),
    ]
    name = Path(found['recording']).resolve().name
    body = '\n'.join(
        (
            _lead(found, evaluation),
            _contents(sections),
            _cards(found, contracts),
            page.notes_html(evaluation.notes),
            *filter(None, sections),
        )
    )
    return page.document(f'depth_ros: {name}', _heading(contracts), body)


def _contents(sections: Iterable[str]) -> str:
    """Links to the sections."""
    links = ''.join(
        f'<a href="#{anchor}">{title}</a>'
        for anchor, title in re.findall(r'<section id="(\w+)"><h2>(.*?)</h2>', ''.join(sections))
    )
    return f'<nav>{links}</nav>'
