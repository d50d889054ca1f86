"""Pseudo-labels of whole data sets: what is to be done, by whom, of what."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tqdm import tqdm

from depth_ros.core.labels import UNLABELED
from depth_ros.files import locked, write_file
from train.data.labels import Labeller
from train.data.sequences import LISTED, DataError, Sequence, read_picture
from train.data.writing import in_order, save

SOURCE, INPUTS = 'source.json', 'inputs.json'
"""In a sequence's semantics/: what made the labels, and of which images."""

Input = list[int | str]
"""Size in bytes, time of the last change in ns, and hash of an image's file."""


def label_sequences(
    sequences: list[Sequence], labeller: Labeller, source: dict, data: str
) -> list[str]:
    """Label every image that has no labels yet or has changed since, and say how many.

    Args:
        sequences: the sequences.
        labeller: makes the labels.
        source: what the labels come from, ready for JSON; labels of another source are refused.
        data: what to call the data set.

    Returns:
        What is wrong with each image that has no labels because it is damaged.

    Raises:
        DataError: if a sequence holds labels of another origin.
        HeldError: if another process labels one of them.
    """
    for sequence in sequences:
        check(sequence, source)
    with ExitStack() as stack:
        known = [stack.enter_context(_held(sequence)) for sequence in sequences]
        return _label(sequences, known, labeller, source, data)


def _label(
    sequences: list[Sequence],
    known: list[dict[str, Input]],
    labeller: Labeller,
    source: dict,
    data: str,
) -> list[str]:
    """As :func:`label_sequences`, of sequences that nobody else labels."""
    todo = [
        (number, index)
        for number, sequence in enumerate(sequences)
        for index in range(len(sequence.images))
        if _is_due(sequence, index, known[number])
    ]
    again = sum(sequences[n].semantics_path(i).exists() for n, i in todo)
    total = sum(len(s.images) for s in sequences)
    pixels, unknown = 0, 0
    damaged: list[str] = []
    doubted: set[tuple[int, int]] = set()

    def reads() -> Iterator:
        for n, (number, index) in enumerate(todo):
            path = sequences[number].images[index]
            yield n, lambda path=path: (read_picture(path), look(path))

    with (
        ThreadPoolExecutor(2) as pool,
        tqdm(total=total, initial=total - len(todo), unit='image', desc=data, disable=None) as bar,
    ):
        for n, result in in_order(reads(), pool):
            number, index = todo[n]
            sequence = sequences[number]
            bar.update()
            try:
                image, seen = result()
            except DataError as error:
                damaged.append(str(error))
                continue
            size = image.shape[1], image.shape[0]
            if size not in doubted and (doubt := labeller.doubt(*size)):
                tqdm.write(f'warning: {doubt}')
            doubted.add(size)
            labels = labeller(image)
            claim(sequence, source)
            save(sequence.semantics_path(index), labels)
            known[number][sequence.images[index].stem] = seen
            pixels += labels.size
            unknown += int((labels == UNLABELED).sum())
    for problem in damaged[:LISTED]:
        print(problem)
    if again:
        print(f'{data}: {again} images have changed since they were labelled')
    share = f', {unknown / pixels:.1%} of the pixels unknown' if pixels else ''
    print(
        f'{data}: labelled {len(todo) - len(damaged)} images{share}; '
        f'{total - len(todo)} were labelled before, {len(damaged)} are damaged'
    )
    return damaged


@contextmanager
def _held(sequence: Sequence) -> Iterator[dict[str, Input]]:
    """Be the only one who labels a sequence; gives what is known of its labelled images.

    It is written down at the end, also of a run that is interrupted.
    """
    path = sequence.folder / 'semantics' / INPUTS
    with locked(sequence.folder / '.label.lock', f"label of '{sequence.folder.name}'"):
        try:
            known = dict(json.loads(path.read_text()))
        except (OSError, ValueError):
            known = {}
        before = dict(known)
        try:
            yield known
        finally:
            if known != before and path.parent.is_dir():
                write_file(path, json.dumps(known) + '\n')


def _is_due(sequence: Sequence, index: int, known: dict[str, Input]) -> bool:
    """Whether an image has no labels, or is another one than was labelled."""
    if not sequence.semantics_path(index).exists():
        return True
    image = sequence.images[index]
    before = known.get(image.stem)
    if before is None:  # labelled by an earlier version
        return False
    try:
        stat = image.stat()
        if before[:2] == [stat.st_size, stat.st_mtime_ns]:
            return False
        now = look(image)
    except OSError:  # missing, which is said when it is read
        return True
    if now[2] == before[2]:  # copied elsewhere
        known[image.stem] = now
    return now[2] != before[2]


def look(path: Path) -> Input:
    """What tells an image file from another one of its name."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()[:16]]


def check(sequence: Sequence, source: dict) -> None:
    """Check that a sequence's labels, if it has any, come from the same source.

    Raises:
        DataError: if they do not.
    """
    folder = sequence.folder / 'semantics'
    if not any(folder.glob('*.png')):
        return
    path = folder / SOURCE
    if not path.exists():
        raise DataError(f"'{folder}' holds labels of another origin: move it away to make others")
    found = json.loads(path.read_text())
    other = sorted(k for k in source if source[k] != found.get(k))
    if other:
        raise DataError(
            f"'{folder}' was labelled with another {other[0]}: remove it to label again"
        )


def claim(sequence: Sequence, source: dict) -> None:
    """Write down what a sequence's labels come from, before the first of them is written."""
    folder = sequence.folder / 'semantics'
    text = json.dumps(source) + '\n'
    path = folder / SOURCE
    if path.exists() and path.read_text() == text:
        return
    folder.mkdir(exist_ok=True)
    write_file(path, text)
