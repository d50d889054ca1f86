"""What is missing or damaged in a data set, found before a training and not in the midst of it."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from train.readers import picture_size
from train.sequences import IMAGE_SUFFIXES, DataError, Sequence, find_sequences

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
    known = _read_cache(root / CACHE)
    good: dict[str, list[int]] = {}  # size, time, width and height by path below the root
    bad: dict[Path, str] = {}
    usable = 0
    with ThreadPoolExecutor() as pool:
        for sequence in tqdm(sequences, unit='sequence', desc=f'checking {root}', disable=None,
                             leave=False):
            files = _files(sequence, root)
            changed = [name for name, signature in files.items()
                       if known.get(name, [])[:2] != signature]
            looks = dict(zip(changed, pool.map(
                lambda name, sizes=files: _look(root / name, sizes[name][0]), changed),
                strict=True))
            size: list[int] = []
            where = _below(root, sequence.images[0].parent)
            for name, signature in files.items():
                found = looks.get(name) or known[name][2:]
                if not isinstance(found, str) and name.startswith(where):
                    size = size or found
                    if found != size:
                        found = (f'has {found[0]}x{found[1]} pixels, others of its sequence have '
                                 f'{size[0]}x{size[1]}')
                if isinstance(found, str):
                    bad[root / name] = found
                else:
                    good[name] = [*signature, *found]
                    usable += name.startswith(where)
    if good != known:
        _write_cache(root / CACHE, good)
    _report(root, bad, sum(len(s.images) for s in sequences))
    if not usable:
        raise DataError(f"'{root}' has no image that can be read")
    return set(bad)


def _below(root: Path, folder: Path) -> str:
    """Path of a folder below the root, as the beginning of its files' names."""
    return f'{folder.relative_to(root).as_posix()}/'


def _files(sequence: Sequence, root: Path) -> dict[str, list[int]]:
    """Size and time of the images and of the maps that there are, by their path below the root."""
    stems = {path.stem for path in sequence.images}
    found = {}
    for folder in (sequence.images[0].parent, sequence.folder / 'depth',
                   sequence.folder / 'semantics'):
        if folder.is_dir():
            where = _below(root, folder)
            with os.scandir(folder) as entries:
                for entry in entries:
                    stem, suffix = os.path.splitext(entry.name)
                    if stem in stems and suffix.lower() in IMAGE_SUFFIXES:
                        stat = entry.stat()
                        found[where + entry.name] = [stat.st_size, stat.st_mtime_ns]
    return dict(sorted(found.items()))


def _look(path: Path, size: int) -> list[int] | str:
    """Width and height of a file that seems to be whole, or what is wrong with it."""
    if not size:
        return 'is empty'
    try:
        width, height = picture_size(path)
        with path.open('rb') as file:
            file.seek(max(0, size - 1024))
            tail = file.read()
    except (DataError, OSError):
        return 'is no image, or cannot be read'
    if (PNG_END if path.suffix.lower() == '.png' else JPEG_END) not in tail:
        return 'is cut short'
    return [width, height]


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
