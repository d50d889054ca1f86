"""What is missing or damaged in a data set, found before a training and not in the midst of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from train.readers import picture_size
from train.sequences import DataError, Sequence, find_sequences

CACHE = '.checked.json'
LISTED = 20  # problems that are printed one by one
PNG_END = b'IEND\xaeB`\x82'
JPEG_END = b'\xff\xd9'


def check_sequences(root: str | Path) -> set[Path]:
    """Look at every file of a data set, and print a list of those that cannot be used.

    A file must exist, have a header that can be read and its format's last bytes; images of one
    sequence must have one size. Files that were good are remembered in ``root / '.checked.json'``,
    where that can be written, and are looked at again only if their size or time has changed.

    Args:
        root: a data set.

    Returns:
        The files to keep away from, for :class:`train.data.FrameDataset`'s ``exclude``.

    Raises:
        DataError: if not one image is left, or a sequence is incomplete.
    """
    root = Path(root)
    sequences = find_sequences(root)
    cache = root / CACHE
    known = _read_cache(cache)
    good: dict[str, list[int]] = {}
    bad: dict[Path, str] = {}
    usable = 0

    def look(entry: tuple[Path, os.stat_result]) -> tuple[list[int], str]:
        path, stat = entry
        signature = [stat.st_size, stat.st_mtime_ns]
        found = known.get(str(path.relative_to(root)), [])
        if found[:2] == signature:
            return found, ''
        try:
            return [*signature, *_look(path, stat.st_size)], ''
        except DataError as error:
            return [], str(error)

    with ThreadPoolExecutor() as pool, tqdm(
            total=len(sequences), unit='sequence', desc=f'checking {root}', disable=None,
            leave=False) as bar:
        for sequence in sequences:
            entries = list(_files(sequence))
            size: list[int] = []
            images = frozenset(sequence.images)
            for (path, _), (signature, problem) in zip(entries, pool.map(look, entries),
                                                       strict=True):
                if not problem and path in images:
                    size = size or signature[2:]
                    if signature[2:] != size:
                        problem = (f'has {signature[2]}x{signature[3]} pixels, others of its '
                                   f'sequence have {size[0]}x{size[1]}')
                    else:
                        usable += 1
                if problem:
                    bad[path] = problem
                else:
                    good[str(path.relative_to(root))] = signature
            bar.update()
    if good != known:
        _write_cache(cache, good)
    _report(root, bad, sum(len(s.images) for s in sequences))
    if not usable:
        raise DataError(f"'{root}' has no image that can be read")
    return set(bad)


def _files(sequence: Sequence) -> Iterator[tuple[Path, os.stat_result]]:
    """The images, and the maps that there are, with their size and time."""
    stems = {path.stem for path in sequence.images}
    for folder in {sequence.images[0].parent, sequence.folder / 'depth',
                   sequence.folder / 'semantics'}:
        if folder.is_dir():
            with os.scandir(folder) as entries:
                for entry in sorted(entries, key=lambda e: e.name):
                    path = folder / entry.name
                    if path.stem in stems and path.suffix.lower() in ('.png', '.jpg', '.jpeg'):
                        yield path, entry.stat()


def _look(path: Path, size: int) -> tuple[int, int]:
    """Width and height of a file that seems to be whole.

    Raises:
        DataError: what is wrong with it.
    """
    if not size:
        raise DataError('is empty')
    try:
        width, height = picture_size(path)
        with path.open('rb') as file:
            file.seek(max(0, size - 1024))
            tail = file.read()
    except (DataError, OSError) as error:
        raise DataError('is no image, or cannot be read') from error
    if (PNG_END if path.suffix.lower() == '.png' else JPEG_END) not in tail:
        raise DataError('is cut short')
    return width, height


def _report(root: Path, bad: dict[Path, str], images: int) -> None:
    if not bad:
        return
    kinds = {'images': 0, 'depth': 0, 'semantics': 0}
    for path in bad:
        name = path.parent.name
        kinds[name if name in ('depth', 'semantics') else 'images'] += 1
    print(f"{root}: left out {kinds['images']} of {images} images, {kinds['depth']} depth maps and "
          f"{kinds['semantics']} label images:")
    for path in sorted(bad)[:LISTED]:
        print(f'  {path.relative_to(root)} {bad[path]}')
    if len(bad) > LISTED:
        print(f'  ... and {len(bad) - LISTED} more')


def _read_cache(path: Path) -> dict[str, list[int]]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_cache(path: Path, good: dict[str, list[int]]) -> None:
    part = path.with_name(f'{path.name}.{os.getpid()}.part')  # several processes may check at once
    with suppress(OSError):  # data may lie where only others may write
        part.write_text(json.dumps(good))
        os.replace(part, path)
