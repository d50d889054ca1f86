"""Reconstructing one sequence: writes ``structure.npz`` and a report."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from depth_ros.evaluation.structure import FILE, Structure
from depth_ros.files import locked, write_file
from train.data.sequences import TABLES, DataError, Sequence, read_sequence
from train.structure.assemble import assemble
from train.structure.found import Reconstruction
from train.structure.reconstruct import Options, one_size
from train.structure.rectify import copy_sequence, rectify_sequence
from train.structure.scale import Scale, find_scale
from train.structure.spans import Progress, reconstruct_spans

VERSION = 1  # of the results: older ones are made again
HEAD = 1 << 12  # number of first bytes of each file that count in the fingerprint
REPORTS = '.structure'  # folder of reports, beside the sequences
WHOLE = 0.95  # share of registered frames from which missing ones are not reported
WRONG_LENS = 1.0  # pixels at a width of 1000; a larger median error hints at a wrong calibration


@dataclass(frozen=True)
class Job:
    """What to do with one sequence.

    Attributes:
        folder: the sequence folder.
        name: name of its report.
        reports: folder of reports.
        out: folder to which a copy of the sequence is written, with its structure; ``None``: the
            structure is written to ``folder``.
        camera_height: metres over the ground, for a sequence that does not state it; ``None``:
            unknown.
        options: options of the reconstruction.
    """

    folder: Path
    name: str
    reports: Path
    out: Path | None = None
    camera_height: float | None = None
    options: Options = field(default_factory=Options)

    @property
    def target(self) -> Path:
        """The sequence folder that will have the structure."""
        return self.out or self.folder


@dataclass(frozen=True)
class Part:
    """A connected part of a sequence.

    Attributes:
        first, last: names of its first and its last image.
        frames: number of its frames.
        length: length of the camera's path, in metres, or in the part's unit if it is not metric.
        source: what the metres come from; see :class:`train.structure.scale.Scale`.
        spread: relative standard deviation of the scale; ``None``: not metric.
        remark: why it is not metric, or what is doubtful.
    """

    first: str
    last: str
    frames: int
    length: float
    source: str
    spread: float | None
    remark: str


@dataclass(frozen=True)
class Report:
    """Result of reconstructing one sequence.

    Attributes:
        name: name of the sequence.
        folder: sequence folder with the structure.
        fingerprint: hash of everything that the structure depends on.
        failure: why there is no structure; '' if there is one.
        frames: number of frames of the sequence.
        registered: number of frames whose pose was found.
        points: mean number of points that a registered frame sees.
        error: median reprojection error, pixels.
        sigma: median relative standard deviation of depth.
        parts: the connected parts.
        focal: fx and fy, in pixels of the original images.
        distortion: k1 of the lens, if it was estimated.
        estimated: whether the lens was estimated.
        remarks: what to know before training with it.
        seconds: duration of the reconstruction.
    """

    name: str
    folder: str
    fingerprint: str
    failure: str
    frames: int
    registered: int = 0
    points: float = 0.0
    error: float = 0.0
    sigma: float = 0.0
    parts: tuple[Part, ...] = ()
    focal: tuple[float, float] = (0.0, 0.0)
    distortion: float = 0.0
    estimated: bool = False
    remarks: tuple[str, ...] = ()
    seconds: float = 0.0

    def save(self, folder: Path) -> None:
        """Write the report to ``folder``; the file is written whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / f'{self.name}.json', json.dumps(asdict(self), indent=1) + '\n')

    @classmethod
    def parse(cls, text: str) -> Report:
        """Parse a report from JSON.

        Raises:
            ValueError, TypeError, KeyError: if the text is not a report.
        """
        values = json.loads(text)
        values['parts'] = tuple(Part(**part) for part in values['parts'])
        values['focal'], values['remarks'] = tuple(values['focal']), tuple(values['remarks'])
        return cls(**values)

    @classmethod
    def load(cls, folder: Path, name: str) -> Report | None:
        """Read the report called ``name``; ``None`` if it is missing or damaged."""
        try:
            return cls.parse((folder / f'{name}.json').read_text())
        except (OSError, ValueError, TypeError, KeyError):
            return None


def done(job: Job) -> Report | None:
    """The report of a finished job; ``None`` if its result is missing or out of date."""
    report = Report.load(job.reports, job.name)
    if report is None or report.fingerprint != fingerprint(job):
        return None
    return report if report.failure or (job.target / FILE).exists() else None


def fingerprint(job: Job) -> str:
    """Hash of everything that the result depends on: options, tables, and the images.

    Of each image, and of its labels, the name, size and first bytes count.

    Raises:
        DataError: if the sequence cannot be read.
    """
    sequence = read_sequence(job.folder, calibrated=False)
    digest = hashlib.sha256()
    digest.update(
        json.dumps([VERSION, asdict(replace(job.options, threads=0)), job.camera_height]).encode()
    )
    for index, path in enumerate(sequence.images):
        labels = sequence.semantics_path(index)
        for file in (path, labels):
            size = file.stat().st_size if file.exists() else -1
            digest.update(f'{file.name} {size}\n'.encode())
            if size >= 0:
                with file.open('rb') as stream:
                    digest.update(stream.read(HEAD))
    digest.update(sequence.intrinsics.tobytes())
    for name in ('camera_height.txt', *TABLES):
        path = job.folder / name
        digest.update(name.encode() + (path.read_bytes() if path.exists() else b''))
    return digest.hexdigest()


def build(job: Job, progress: Progress = lambda share, stage: None) -> Report:
    """Reconstruct a sequence, and write its structure and a report.

    Args:
        job: the sequence, and options.
        progress: function that is called with the share of the work done and the next stage.

    Returns:
        The report; it also says why a reconstruction failed.

    Raises:
        OSError: if a file cannot be written; no partial files are left.
        DataError: if the sequence cannot be read.
        HeldError: if another process reconstructs it.
    """
    job.reports.mkdir(parents=True, exist_ok=True)
    with locked(job.reports / f'.{job.name}.lock', f"structure of '{job.name}'"):
        return _build(job, progress)


def _build(job: Job, progress: Progress) -> Report:
    begin = time.monotonic()
    sequence = read_sequence(job.folder, calibrated=False)
    mark = fingerprint(job)
    report = Report(job.name, str(job.target), mark, '', len(sequence.images))
    with tempfile.TemporaryDirectory(prefix=f'.{job.name}.', dir=job.reports) as work:
        try:
            _check(job, sequence)
            found = reconstruct_spans(sequence, Path(work), job.options, progress)
            height = sequence.camera_height or job.camera_height
            scales = [find_scale(sequence, found, p, height) for p in range(found.parts)]
            structure, origin = assemble(sequence, found, scales)
            if not structure.registered.any():
                raise DataError('too few precise points: little texture, or no parallax')
        except DataError as error:
            _remove(job)
            report = replace(report, failure=str(error))
        else:
            progress(1.0, 'writing')
            _write(job, sequence, found, structure)
            report = _describe(report, sequence, found, structure, origin)
    report = replace(report, seconds=round(time.monotonic() - begin, 1))
    report.save(job.reports)
    return report


def _check(job: Job, sequence: Sequence) -> None:
    """Check a sequence before the long work.

    Raises:
        DataError: if it cannot be reconstructed.
    """
    one_size(sequence)
    if len(sequence.images) < job.options.min_part:
        raise DataError(
            f'only {len(sequence.images)} images, at least {job.options.min_part} are needed'
        )
    if job.out is None and not np.isfinite(sequence.intrinsics).all():
        raise DataError(
            'its intrinsics are unknown: give --out, a folder for its images without the '
            'distortion of the lens'
        )


def _remove(job: Job) -> None:
    """Remove the structure of an earlier run, which is out of date."""
    if job.out is not None:
        shutil.rmtree(job.out, ignore_errors=True)
    else:
        (job.folder / FILE).unlink(missing_ok=True)


def _write(job: Job, sequence: Sequence, found: Reconstruction, structure: Structure) -> None:
    if job.out is None:
        structure.write(job.folder / FILE)
        return
    part = job.out.with_name(f'.{job.out.name}.part')
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        if found.lens.estimated:
            structure = rectify_sequence(sequence, structure, found.lens, part)
        else:
            copy_sequence(sequence, part)
        structure.write(part / FILE)
        shutil.rmtree(job.out, ignore_errors=True)
        os.replace(part, job.out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _describe(
    report: Report,
    sequence: Sequence,
    found: Reconstruction,
    structure: Structure,
    scales: list[Scale],
) -> Report:
    """Complete the report of a successful reconstruction."""
    parts = []
    for number, scale in enumerate(scales):
        frames = np.flatnonzero(structure.part == number)
        if not len(frames):
            continue
        steps = np.diff(structure.poses[frames, :3, 3], axis=0)
        parts.append(
            Part(
                sequence.images[frames[0]].name,
                sequence.images[frames[-1]].name,
                len(frames),
                float(np.linalg.norm(steps, axis=1).sum()),
                scale.source,
                float(scale.spread) if np.isfinite(scale.spread) else None,
                scale.remark,
            )
        )
    registered = int(structure.registered.sum())
    return replace(
        report,
        registered=registered,
        points=len(structure.depth) / registered,
        error=float(np.median(structure.error)),
        sigma=float(np.median(structure.sigma)),
        parts=tuple(parts),
        focal=(float(found.lens.matrix[0, 0]), float(found.lens.matrix[1, 1])),
        distortion=float(found.lens.distortion[0]),
        estimated=found.lens.estimated,
        remarks=(
            *([f'{found.doubt}: check them'] if found.doubt else []),
            *_remarks(sequence, structure, parts),
        ),
    )


def _remarks(sequence: Sequence, structure: Structure, parts: list[Part]) -> list[str]:
    """What to know before training with it."""
    remarks = []
    registered = int(structure.registered.sum())
    if registered < WHOLE * len(structure):
        lost = np.flatnonzero(~structure.registered)
        remarks.append(
            f'{len(lost)} of {len(structure)} frames are left out, such as '
            f'{sequence.images[lost[0]].name}: too little texture or light, no parallax, or a cut'
        )
    for before, after in zip(parts, parts[1:], strict=False):
        remarks.append(
            f'no points connect {before.last} and {after.first}: a cut, another camera, or the '
            'camera stood; each part has its own scale'
        )
    for part in parts:
        if part.spread is None:
            remarks.append(f'{part.first} to {part.last} is not metric: {part.remark}')
    width = 2 * structure.intrinsics[0, 2]
    if (error := float(np.median(structure.error))) > WRONG_LENS * width / 1000:
        remarks.append(
            f'points lie {error:.2f} pixels (median) from where the camera should see them: '
            'check the intrinsics, the rectification and the rolling shutter'
        )
    return remarks
