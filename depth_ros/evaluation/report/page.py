"""The toolkit of all result pages: Jinja2 templates and one style sheet make one HTML file.

A page needs no network and no script; every picture and figure is inside. What a page says stands
in its templates: `templates/page.html.j2` is the frame of every page and includes one template for
each section from the page's own folder. `ui` in a template holds the macros of `ui.html.j2`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from depth_ros.packages import require_packages

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / 'templates'

PICTURE_AREA, SMALL_AREA = 80_000, 45_000
"""Largest pictures, in pixels: about sixty of them make a page of less than 3 MB."""


@dataclass(frozen=True)
class Picture:
    """A picture inside a page.

    Attributes:
        source: Data URI of a JPEG.
        alt: What it shows.
    """

    source: str
    alt: str


def require_page_packages() -> None:
    """Check that pages can be made, before hours are spent on what they would show.

    Raises:
        MissingPackageError: if Jinja2 or matplotlib is not installed; no node needs them.
    """
    require_packages('the report', 'jinja2', 'matplotlib')


def number(value: float | None, form: str = '.3f') -> str:
    """Return a number as text, with a true minus sign; a dash for None, NaN and infinity."""
    if value is None or not np.isfinite(value):
        return '–'
    return format(value, form).replace('-', '−')


def percent(share: float | None, form: str = '.1f') -> str:
    """Return a share as text in percent."""
    return f'{number(None if share is None else 100 * share, form)} %'


def sentence(text: str) -> str:
    """Return a note as a sentence: with a capital letter and a full stop."""
    return f'{text[:1].upper()}{text[1:]}{"" if text.endswith((".", "!", "?")) else "."}'


def units(text: str) -> str:
    """Return text of which no line begins with a percent sign."""
    return text.replace(' %', '\xa0%')


def picture(rgb: np.ndarray, alt: str, area: int = PICTURE_AREA) -> Picture:
    """Return an image, uint8 (H, W, 3), as a JPEG of at most `area` pixels."""
    height, width = rgb.shape[:2]
    factor = (area / (height * width)) ** 0.5
    if factor < 1:
        size = max(1, round(width * factor)), max(1, round(height * factor))
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    data = cv2.imencode('.jpg', rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
    return Picture(data_uri(data.tobytes(), 'image/jpeg'), alt)


def data_uri(data: bytes, kind: str) -> str:
    """Return data of a media type as a URI that holds all of it."""
    return f'data:{kind};base64,{base64.b64encode(data).decode()}'


def render(
    folder: str,
    title: str,
    heading: str,
    sections: Mapping[str, str],
    templates: Sequence[Path] = (),
    **context: object,
) -> str:
    """Return a whole page.

    Args:
        folder: Folder of the page's own templates: `top.html.j2`, and one for each section.
        title: Of the browser's window.
        heading: First line of the page.
        sections: Titles of the sections by anchor, in order; the anchor is the template's name.
        templates: Where else to look for `folder`.
        context: What the templates show.

    Raises:
        MissingPackageError: if Jinja2 is not installed.
    """
    return (
        _environment(tuple(templates))
        .get_template('page.html.j2')
        .render(folder=folder, title=title, heading=heading, sections=sections, **context)
    )


@cache
def _environment(templates: tuple[Path, ...]) -> Environment:
    require_page_packages()
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([TEMPLATES, *templates]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, percent=percent, sentence=sentence, units=units)
    environment.globals['style'] = (TEMPLATES / 'style.css').read_text()
    environment.globals['ui'] = environment.get_template('ui.html.j2').module
    return environment
