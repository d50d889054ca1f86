"""Write one source as sequence folders, or go on where an interrupted run stopped."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from depth_ros.core.camera import scale_intrinsics
from depth_ros.files import locked
from train.data.division import SPANS, divide, samples
from train.data.motion import Motion, sharpness, small
from train.data.prepare_page import Report
from train.data.sequences import UNKNOWN, DataError, Sequence, resize_image
from train.data.source import Read, Source
from train.data.writing import in_order, save

HEADS = 16
"""Files of a recording, about, whose first bytes are looked at to see whether it has changed."""

REPORTS = '.prepared'
"""Folder beside the sequences with the report of each source that is done."""


class Options(NamedTuple):
    """What to make of each source.

    Attributes:
        width, height: Of the stored pictures.
        png: Store pictures as PNG, not JPEG.
        jpeg_quality: 1 to 100.
        without: What is left out, of 'depth', 'semantics' and 'poses'.
        part, shares: As of `train.data.division.divide`.
        min_motion: Pixels by which a picture must have moved since the last that was kept; one
            that has not is static.
        parallax: The same for pictures that are too close to each other.
    """

    width: int
    height: int
    png: bool
    jpeg_quality: int
    without: tuple[str, ...]
    part: str
    shares: tuple[float, ...] | None
    min_motion: float
    parallax: float


def prepare(
    source: Source,
    out: Path,
    options: Options,
    pool: ThreadPoolExecutor,
    step: Callable[[int], object] = lambda _: None,
) -> Report:
    """Write the sequences of a source, `out / PART / source.name`, or go on with them.

    Args:
        source: What to write.
        out: Folder of parts, or of sequence folders where there are no parts.
        options: What to make of it.
        pool: Threads that read, resize and write; OpenCV works outside of Python's lock.
        step: Called with the number of frames done since the last call.

    Returns:
        What became of it, which is also written to `out / REPORTS`.

    Raises:
        HeldError: if another process prepares this source.
    """
    with locked(out / f'.{source.name}.lock', f"prepare of '{source.name}'"):
        return _prepare(source, out, options, pool, step)


def _prepare(
    source: Source,
    out: Path,
    options: Options,
    pool: ThreadPoolExecutor,
    step: Callable[[int], object],
) -> Report:
    work = out / f'.{source.name}.part'
    _discard_stale(work, source.inputs)
    (work / 'images').mkdir(parents=True, exist_ok=True)
    suffix = '.png' if options.png else '.jpg'
    paths = [work / 'images' / f'{stem}{suffix}' for stem in source.stems]

    def write(index: int, read: Read) -> np.ndarray:
        return _write_frame(source, index, read, work, paths[index], options)

    total = len(paths)
    flow, brightness, sharp = np.full((3, total), np.nan)  # NaN: damaged
    keep = np.zeros(total, bool)
    damaged = []
    motion = Motion()
    for index, result in in_order(_tasks(source, paths, write), pool):
        step(1)
        try:
            image = result()
        except ValueError as error:
            damaged.append(str(error))
            continue
        flow[index] = motion.since_kept(image)
        brightness[index], sharp[index] = image.mean(), sharpness(image)
        keep[index] = flow[index] >= max(options.min_motion, options.parallax)
        if keep[index]:
            motion.keep(image)
    dropped = np.isfinite(brightness) & ~keep
    static = dropped & (flow < options.min_motion)

    numbers = np.arange(total) if source.numbers is None else source.numbers
    numbers = numbers - np.cumsum(dropped)  # the frames around those are successive
    parts = divide(source, keep, numbers, options.part, options.shares)
    shown = np.any([frames for frames, _ in parts.values()], axis=0)
    for folder in (work / 'parts', *(out / name / source.name for name in ('', *SPANS))):
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was cut off at its very end
    for name, (frames, targets) in parts.items():
        folder = work / 'parts' / name / source.name
        _gather(work, folder, [source.stems[i] for i in np.flatnonzero(frames)])
        _write_tables(source, folder, np.flatnonzero(frames), numbers, targets, options)
    for name in parts:
        (out / name).mkdir(exist_ok=True)
        os.replace(work / 'parts' / name / source.name, out / name / source.name)
    shutil.rmtree(work)

    report = Report(
        source.name,
        dict(source.facts),
        list(source.warnings),
        total,
        int(static.sum()),
        int((dropped & ~static).sum()),
        int((keep & ~shown).sum()),
        damaged,
        {
            name: (int(f.sum()), int(t.sum()), samples(numbers, f, t))
            for name, (f, t) in parts.items()
        },
        [round(float(x), 3) for x in flow[keep & np.isfinite(flow)]],
        [round(float(x), 2) for x in brightness[np.isfinite(brightness)]],
        [round(float(x), 5) for x in sharp[keep]],
        list(source.size),
        None
        if np.isnan(source.intrinsics).any()
        else _stored_intrinsics(source, options).round(4).tolist(),
        source.inputs,
    )
    report.save(out / REPORTS)
    return report


def fingerprint(path: Path) -> str:
    """Return a hash of names, sizes and times of a recording's files, and of the heads of some."""
    found = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob('*') if p.is_file())
    every = max(1, len(files) // HEADS)
    for number, file in enumerate(files):
        stat = file.stat()
        name = file.relative_to(path).as_posix()
        found.update(f'{name} {stat.st_size} {stat.st_mtime_ns}\n'.encode())
        if number % every == 0:
            with file.open('rb') as stream:
                found.update(stream.read(1 << 12))
    return found.hexdigest()[:16]


def _discard_stale(work: Path, inputs: str) -> None:
    """Remove what an interrupted run made of files that have changed since."""
    note = work / 'inputs'
    if work.exists() and (note.read_text() if note.exists() else '') != inputs:
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    note.write_text(inputs)


def _gather(work: Path, folder: Path, stems: list[str]) -> None:
    """Put the frames' files into a sequence folder. They stay in `work` for other parts."""
    for kind in ('images', 'depth', 'semantics'):
        files = {path.stem: path for path in (work / kind).glob('*') if path.suffix != '.part'}
        found = [files[stem] for stem in stems if stem in files]
        if found:
            (folder / kind).mkdir(parents=True)
        for path in found:
            try:
                os.link(path, folder / kind / path.name)
            except OSError:  # a file system without links
                shutil.copyfile(path, folder / kind / path.name)


def _tasks(
    source: Source, paths: list[Path], write: Callable[[int, Read], np.ndarray]
) -> Iterator[tuple[int, Callable[[], np.ndarray]]]:
    """Yield each frame's index and task: write it, or read again what was written before."""
    there = {i for i, path in enumerate(paths) if path.exists()}
    pictures = source.pictures([i for i in range(len(paths)) if i not in there])
    for index, path in enumerate(paths):
        if index in there:
            yield index, lambda path=path: small(path.read_bytes())
        else:
            _, read = next(pictures)
            yield index, lambda index=index, read=read: write(index, read)


def _write_frame(
    source: Source, index: int, read: Read, folder: Path, path: Path, options: Options
) -> np.ndarray:
    """Write a frame's files, the picture last; return it as `small` does."""
    image = read()
    if image.shape[1::-1] != source.size:
        raise DataError(
            f"frame '{source.stems[index]}' has {image.shape[1]}x{image.shape[0]} "
            f'pixels, others have {source.size[0]}x{source.size[1]}'
        )
    depth = None if 'depth' in options.without else source.depth(index)
    labels = None if 'semantics' in options.without else source.labels(index)
    if depth is not None:
        steps = np.rint(depth / source.depth_scale)
        steps[steps > np.iinfo(np.uint16).max] = 0
        save(folder / 'depth' / f'{path.stem}.png', steps.astype(np.uint16))
    if labels is not None:
        save(folder / 'semantics' / f'{path.stem}.png', labels)
    return small(
        save(path, resize_image(image, options.width, options.height), options.jpeg_quality)
    )


def _write_tables(
    source: Source,
    folder: Path,
    keep: np.ndarray,
    numbers: np.ndarray,
    targets: np.ndarray,
    options: Options,
) -> None:
    """Write the text files of the frames with the indices `keep`."""
    if np.isnan(source.intrinsics).any():
        (folder / 'intrinsics.txt').write_text(UNKNOWN + '\n')
    else:
        np.savetxt(folder / 'intrinsics.txt', _stored_intrinsics(source, options), fmt='%.9g')
    tables = {
        'times': (source.times, '%.9f'),
        'speed': (source.speeds, '%.9g'),
        'odometry': (source.odometry, '%.9g'),
        'poses': (source.poses, '%.9g'),
    }
    for name, (table, form) in tables.items():
        if table is not None and name not in options.without:
            table = table[keep, :3].reshape(len(keep), -1) if table.ndim == 3 else table[keep]
            np.savetxt(folder / f'{name}.txt', table, fmt=form)
    if (folder / 'depth').is_dir() and source.depth_scale != Sequence.depth_scale:
        (folder / 'depth_scale.txt').write_text(f'{source.depth_scale:.9g}\n')
    frames = np.stack([numbers, targets], 1)[keep]
    if not ((np.diff(frames[:, 0]) == 1).all() and frames[:, 1].all()):
        np.savetxt(folder / 'frames.txt', frames, fmt='%d')


def _stored_intrinsics(source: Source, options: Options) -> np.ndarray:
    """Return the intrinsics (3, 3) of the pictures as they are stored."""
    return scale_intrinsics(
        source.intrinsics, options.width / source.size[0], options.height / source.size[1]
    )
