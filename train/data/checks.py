"""Find what is missing or damaged in a data set before a training starts."""

from __future__ import annotations

import json
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from depth_ros.files import write_file
from train.data.sequences import (
    LISTED,
    MAPS,
    DataError,
    Sequence,
    find_sequences,
    read_map,
    read_picture,
)

CACHE = '.decoded.json'


def check_sequences(root: str | Path) -> set[Path]:
    """Read every file of a data set, and print a list of those that cannot be used.

    A file must be there and be read as a training reads it; images of one sequence must have one
    size. Frames without a map are counted where others of their sequence may have one. Files that
    were good are remembered in ``root / '.decoded.json'``, where that can be written, and are read
    again only if their size or time has changed.

    Args:
        root: a data set.

    Returns:
        The files to keep away from, for :class:`train.data.dataset.FrameDataset`'s ``exclude``.

    Raises:
        DataError: if not one image is left, or a sequence is incomplete.
    """
    root = Path(root)
    sequences = find_sequences(root)
    known = _read_cache(root / CACHE)
    files = [_files(sequence, root) for sequence in sequences]
    changed = [
        name
        for found in files
        for name, signature in found.items()
        if known.get(name, [])[:2] != signature
    ]
    with ThreadPoolExecutor() as pool:
        looks = dict(
            zip(
                changed,
                tqdm(
                    pool.map(lambda name: _look(root / name), changed),
                    total=len(changed),
                    unit='file',
                    desc=f'checking {root}',
                    disable=None,
                    leave=False,
                ),
                strict=True,
            )
        )
    good: dict[str, list[int]] = {}  # size, time, width and height by path below the root
    bad: dict[Path, str] = {}
    totals, lacking = Counter(), Counter()
    for sequence, found in zip(sequences, files, strict=True):
        where = _below(root, sequence.images[0].parent)
        for path in sequence.images:
            if f'{where}/{path.name}' not in found:
                bad[path] = f"image '{path}' is missing"
        seen = {name: looks.get(name) or known[name][2:] for name in found}
        sizes = Counter(
            tuple(look)
            for name, look in seen.items()
            if not isinstance(look, str) and _kind(name) == 'images'
        )
        size = list(sizes.most_common(1)[0][0]) if sizes else []
        for name, signature in found.items():
            look = seen[name]
            if not isinstance(look, str) and _kind(name) == 'images':
                if look != size:
                    look = (
                        f"image '{root / name}' has {look[0]}x{look[1]} pixels, most of its "
                        f'sequence have {size[0]}x{size[1]}'
                    )
            if isinstance(look, str):
                bad[root / name] = look
            else:
                good[name] = [*signature, *look]
        there, count = Counter(map(_kind, found)), len(sequence.images)
        totals['images'] += count
        for kind in MAPS:
            if (sequence.folder / kind).is_dir():
                totals[kind] += count
                lacking[kind] += count - there[kind]
    if good != known:
        _write_cache(root / CACHE, good)
    _report(root, bad, totals, lacking)
    if 'images' not in map(_kind, good):
        raise DataError(f"'{root}' has no image that can be read")
    return set(bad)


def _below(root: Path, folder: Path) -> str:
    """Name of a folder below the root."""
    return folder.relative_to(root).as_posix()


def _kind(name: str) -> str:
    """'images', 'depth' or 'semantics', by a file's folder."""
    folder = name.rpartition('/')[0].rpartition('/')[2]
    return folder if folder in MAPS else 'images'


def _files(sequence: Sequence, root: Path) -> dict[str, list[int]]:
    """Size and time of the images and of the maps that there are, by their path below the root."""
    wanted = {path.name for path in sequence.images}
    maps = {f'{path.stem}.png' for path in sequence.images}
    found = {}
    for folder in (sequence.images[0].parent, *(sequence.folder / kind for kind in MAPS)):
        if folder.is_dir():
            where = _below(root, folder)
            names = maps if folder.name in MAPS else wanted
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name in names:
                        with suppress(OSError):  # a link to nowhere
                            stat = entry.stat()
                            found[f'{where}/{entry.name}'] = [stat.st_size, stat.st_mtime_ns]
    return dict(sorted(found.items()))


def _look(path: Path) -> list[int] | str:
    """Width and height of a file that a training can read, or what is wrong with it."""
    dtype = MAPS.get(path.parent.name)
    try:
        values = read_map(path, dtype=dtype) if dtype else read_picture(path)
    except DataError as error:
        return str(error)
    return list(values.shape[1::-1])


def _report(root: Path, bad: dict[Path, str], totals: Counter[str], lacking: Counter[str]) -> None:
    """Print what is left out and why, and how many frames have no map."""
    if bad:
        counts = Counter(_kind(path.as_posix()) for path in bad)
        print(
            f'{root}: left out {counts["images"]} of {totals["images"]} images, '
            f'{counts["depth"]} depth maps and {counts["semantics"]} label images:'
        )
    for path in sorted(bad)[:LISTED]:
        print(f'  {bad[path]}')
    if len(bad) > LISTED:
        print(f'  ... and {len(bad) - LISTED} more')
    for kind, name in (('depth', 'depth map'), ('semantics', 'label image')):
        if lacking[kind]:
            print(f'{root}: {lacking[kind]} of {totals[kind]} frames have no {name}')


def _read_cache(path: Path) -> dict[str, list[int]]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_cache(path: Path, good: dict[str, list[int]]) -> None:
    with suppress(OSError):  # data may lie where only others may write
        write_file(path, json.dumps(good))
