"""One sequence, from its pictures to ``structure.npz`` and a report of what became of it."""

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

VERSION = 1  # of what is written: another one makes all of it again
HEAD = 1 << 12  # bytes of each file that tell whether it has changed
REPORTS = '.structure'  # folder of reports, beside the sequences
WHOLE = 0.95  # share of the frames from which no word is lost about the others
WRONG_LENS = 1.0  # pixels of median error, at a width of 1000, that a right camera stays under


@dataclass(frozen=True)
class Job:
    """What to do with one sequence.

    Attributes:
        folder: where it lies.
        name: of its report.
        reports: folder of reports.
        out: folder to write it to, with its structure; ``None``: the structure to ``folder``.
        camera_height: metres over the ground, where the sequence does not say.
        options: of the reconstruction.
    """

    folder: Path
    name: str
    reports: Path
    out: Path | None = None
    camera_height: float | None = None
    options: Options = field(default_factory=Options)

    @property
    def target(self) -> Path:
        """The sequence folder that has the structure afterwards."""
        return self.out or self.folder


@dataclass(frozen=True)
class Part:
    """A connected part of a sequence.

    Attributes:
        first, last: names of its first and its last picture.
        frames: how many are in it.
        length: of the way, metres, or units where there are none.
        source: where metres come from; see :class:`train.structure.scale.Scale`.
        spread: relative, of these; ``None`` without.
        remark: why there are none, or what is doubtful.
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
    """What became of one sequence.

    Attributes:
        name: of the sequence.
        folder: that has the structure.
        fingerprint: of all that it was made from.
        failure: why there is no structure; '' where there is one.
        frames: that the sequence has.
        registered: of these, whose pose was found.
        points: observations of points in a registered frame, on average.
        error: median reprojection error, pixels.
        sigma: median relative standard deviation of depth.
        parts: connected parts.
        focal: fx and fy, pixels of the pictures as they were.
        distortion: k1, where the lens was estimated.
        estimated: whether the lens was.
        remarks: what to know before training with it.
        seconds: that it took.
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
        """Write it to ``folder``; it appears whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / f'{self.name}.json', json.dumps(asdict(self), indent=1) + '\n')

    @classmethod
    def parse(cls, text: str) -> Report:
        """From JSON.

        Raises:
            ValueError, TypeError, KeyError: it is no report.
        """
        values = json.loads(text)
        values['parts'] = tuple(Part(**part) for part in values['parts'])
        values['focal'], values['remarks'] = tuple(values['focal']), tuple(values['remarks'])
        return cls(**values)

    @classmethod
    def load(cls, folder: Path, name: str) -> Report | None:
        """Read it; ``None`` if there is none that can be read."""
        try:
            return cls.parse((folder / f'{name}.json').read_text())
        except (OSError, ValueError, TypeError, KeyError):
            return None


def done(job: Job) -> Report | None:
    """The report of a job whose result is there and still right."""
    report = Report.load(job.reports, job.name)
    if report is None or report.fingerprint != fingerprint(job):
        return None
    return report if report.failure or (job.target / FILE).exists() else None


def fingerprint(job: Job) -> str:
    """A hash of all that the result depends on: options, tables, and the names, sizes and first
    bytes of files.

    Raises:
        DataError: the sequence cannot be read.
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
    """Reconstruct a sequence and write what was found, and the report.

    Args:
        job: what to do.
        progress: is told the share of the work that is done and the stage that begins.

    Raises:
        OSError: something cannot be written; nothing half-written stays.
        DataError: the sequence cannot be read.
        HeldError: another process reconstructs it.
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
                raise DataError('too few points that are sure: little texture, or no parallax')
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
    """Find out before long work that it would be for nothing.

    Raises:
        DataError: saying why.
    """
    one_size(sequence)
    if len(sequence.images) < job.options.min_part:
        raise DataError(f'only {len(sequence.images)} images, at least {job.options.min_part}')
    if job.out is None and not np.isfinite(sequence.intrinsics).all():
        raise DataError(
            'its intrinsics are unknown: give --out, to write its pictures again without the '
            'distortion of the lens that is found'
        )


def _remove(job: Job) -> None:
    """Leave no structure of an earlier run that is no longer right."""
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
    """The report with what was found."""
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
            f'{before.last} and {after.first} do not hang together: a cut, another camera, or '
            'the camera stood; each part has its own scale'
        )
    for part in parts:
        if part.spread is None:
            remarks.append(f'{part.first} to {part.last} has no metres: {part.remark}')
    width = 2 * structure.intrinsics[0, 2]
    if (error := float(np.median(structure.error))) > WRONG_LENS * width / 1000:
        remarks.append(
            f'points lie {error:.2f} pixels (median) from where the camera should see them: '
            'check the intrinsics, the rectification and the rolling shutter'
        )
    return remarks
