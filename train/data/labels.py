"""Pseudo-labels from a segmentation network of any origin, as Cityscapes' trainIds."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
from tqdm import tqdm

from depth_ros.core.labels import UNLABELED
from depth_ros.files import write_file
from depth_ros.inference.classes import CITYSCAPES
from depth_ros.inference.contract import ContractError, read_contract
from train.data.sequences import (
    DataError,
    Sequence,
    read_picture,
    resize_image,
    resize_map,
)
from train.data.writing import in_order, save

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES = len(CITYSCAPES)
SOURCE = 'source.json'
NO_CLASS = '-'


def label_sequences(sequences: list[Sequence], labeller: Labeller, source: dict, data: str) -> None:
    """Label every image that has no labels yet, and say how many.

    Args:
        sequences: the sequences.
        labeller: makes the labels.
        source: what the labels come from, ready for JSON; labels of another source are refused.
        data: what to call the data set.

    Raises:
        DataError: if a sequence holds labels of another origin.
    """
    for sequence in sequences:
        claim(sequence, source)
    todo = [
        (sequence, i)
        for sequence in sequences
        for i in range(len(sequence.images))
        if not sequence.semantics_path(i).exists()
    ]
    total = sum(len(s.images) for s in sequences)
    pixels, unknown, damaged = 0, 0, []
    reads = ((n, partial(read_picture, sequence.images[i])) for n, (sequence, i) in enumerate(todo))
    with (
        ThreadPoolExecutor(2) as pool,
        tqdm(
            total=total, initial=total - len(todo), unit='image', desc=str(data), disable=None
        ) as bar,
    ):
        for n, result in in_order(reads, pool):
            sequence, index = todo[n]
            bar.update()
            try:
                image = result()
            except DataError as error:
                damaged.append(str(error))
                continue
            labels = labeller(image)
            save(sequence.semantics_path(index), labels)
            pixels += labels.size
            unknown += int((labels == UNLABELED).sum())
    for problem in damaged[:20]:
        print(problem)
    share = f', {unknown / pixels:.1%} of the pixels unknown' if pixels else ''
    print(
        f'{data}: labelled {len(todo) - len(damaged)} images{share}; '
        f'{total - len(todo)} were labelled before, {len(damaged)} are damaged'
    )


def claim(sequence: Sequence, source: dict) -> None:
    """Make sure that a sequence's labels, if it has any, come from this command."""
    folder = sequence.folder / 'semantics'
    path = folder / SOURCE
    if path.exists():
        found = json.loads(path.read_text())
        other = sorted(k for k in source if source[k] != found.get(k))
        if other:
            raise DataError(
                f"'{folder}' was labelled with another {other[0]}: remove it to label again"
            )
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise DataError(f"'{folder}' holds labels of another origin: move it away to make others")
    folder.mkdir(exist_ok=True)
    write_file(path, json.dumps(source) + '\n')


class Labeller:
    """A segmentation network and what to make of its output; the options are the command's.

    Args:
        path: the ONNX file.
        size: width and height of the input.
        mean, std: of float inputs, in the order of ``order``.
        order: 'rgb' or 'bgr'.
        output: name of the output.
        classes: a file, or a list separated by commas.
        confidence: smallest probability.
        flip: whether to average over the mirror image.
        threads: of the inference, 0 for all.

    Raises:
        DataError: the model or an option cannot be used.
    """

    def __init__(
        self,
        path: Path,
        *,
        size: tuple[int, int] | None = None,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        order: str = 'rgb',
        output: str | None = None,
        classes: str | None = None,
        confidence: float = 0.0,
        flip: bool = False,
        threads: int = 0,
    ) -> None:
        self._path, self._confidence, self._flip = path, confidence, flip
        self._swap = order == 'rgb'  # pictures are BGR
        self._mean, self._std = (np.array(v, np.float32) for v in (mean, std))
        if (self._std <= 0).any():
            raise DataError('--std must be positive')
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # TensorRT would build an engine for minutes.
        providers = [p for p in onnxruntime.get_available_providers() if 'Tensorrt' not in p]
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # onnxruntime has no common kind
            raise DataError(f"cannot load model '{path}': {error}") from error
        self._input, self._bytes, self._size = self._find_input(size)
        self._output = self._find_output(output)
        self._targets = None if classes is None else _read_classes(classes)
        if self._targets is None and self._bytes:
            self._targets = self._contract_targets()

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Label one picture.

        Args:
            image: BGR (H, W, 3) uint8.

        Returns:
            (H, W) uint8, trainIds or 255.
        """
        height, width = image.shape[:2]
        size = self._size or tuple(max(32, round(n / 32) * 32) for n in (width, height))
        small = resize_image(image, *size)
        found = self._infer(small)
        mirrored = self._infer(small[:, ::-1])[..., ::-1] if self._flip else None
        if found.ndim == 2:
            labels = self._translate(found)
            if mirrored is not None:  # there is no average of ids: both must agree
                labels = np.where(labels == self._translate(mirrored), labels, UNLABELED)
            return resize_map(labels.astype(np.uint8), width, height)
        if mirrored is not None:
            found = (found + mirrored) / 2
        scores = cv2.resize(
            np.ascontiguousarray(found.transpose(1, 2, 0)),
            (width, height),
            interpolation=cv2.INTER_LINEAR,
        )
        labels = scores.argmax(2).astype(np.uint8)
        labels[(labels == CLASSES) | (scores.max(2) < self._confidence)] = UNLABELED
        return labels

    def _infer(self, image: np.ndarray) -> np.ndarray:
        """Ids (h, w) of the model's classes, or probabilities (20, h, w) of ours and of none."""
        if self._swap:
            image = image[..., ::-1]
        if self._bytes:
            batch = np.ascontiguousarray(image)[None]
        else:
            values = (image * np.float32(1 / 255) - self._mean) / self._std
            batch = np.ascontiguousarray(values.transpose(2, 0, 1))[None]
        try:
            found = np.asarray(self._session.run([self._output], {self._input: batch})[0])
        except Exception as error:
            raise DataError(
                f"model '{self._path}' fails on an image of {image.shape[1]}x"
                f'{image.shape[0]} (see --size): {error}'
            ) from error
        if found.ndim == 4 and found.shape[:2] == (1, 1):
            found = found[:, 0]
        if found.ndim == 4:
            return self._merge(_probabilities(found[0].astype(np.float32)))
        if found.ndim == 3 and found.shape[0] == 1:
            found = found[0]
        if found.ndim != 2:
            raise DataError(
                f"output '{self._output}' of '{self._path}' has the shape "
                f'{found.shape}: expected [1, classes, h, w] or [1, h, w]; choose '
                'another with --output'
            )
        if self._confidence:
            raise DataError(
                f"output '{self._output}' of '{self._path}' holds ids, so there is no "
                'probability for --confidence'
            )
        return found.astype(np.int64)

    def _merge(self, probabilities: np.ndarray) -> np.ndarray:
        """Probabilities (20, h, w) of Cityscapes' classes, and last of none of them."""
        targets = self._targets or list(range(CLASSES))
        if len(targets) != len(probabilities):
            raise DataError(
                f"model '{self._path}' has {len(probabilities)} classes, but "
                f'{len(targets)} are known: say with --classes what they are'
            )
        merged = np.zeros((CLASSES + 1, *probabilities.shape[1:]), np.float32)
        for target, values in zip(targets, probabilities, strict=True):
            merged[CLASSES if target == UNLABELED else target] += values
        return merged

    def _translate(self, ids: np.ndarray) -> np.ndarray:
        """TrainIds of the model's ids; 255 stays."""
        table = np.full(256, -1)
        targets = self._targets or list(range(CLASSES))
        table[: len(targets)] = targets
        table[UNLABELED] = UNLABELED
        labels = table[ids] if 0 <= ids.min() and ids.max() <= 255 else np.array([-1])
        if (labels < 0).any():
            raise DataError(
                f"model '{self._path}' returns the class ids {ids.min()} to "
                f'{ids.max()}, but {len(targets)} classes are known: say with '
                '--classes what they are'
            )
        return labels

    def _find_input(self, size: tuple[int, int] | None) -> tuple[str, bool, tuple[int, int] | None]:
        """The input's name, whether it takes bytes, and its width and height if they are fixed."""
        inputs = self._session.get_inputs()
        takes_bytes = inputs[0].type == 'tensor(uint8)'
        shape = inputs[0].shape
        channels = 3 if takes_bytes else 1
        if (
            len(inputs) != 1
            or len(shape) != 4
            or shape[channels] not in (3, None)
            and not isinstance(shape[channels], str)
            or inputs[0].type not in ('tensor(uint8)', 'tensor(float)')
        ):
            known = ', '.join(f'{i.name} {i.type} {i.shape}' for i in inputs)
            raise DataError(
                f"model '{self._path}' takes {known}: expected one image, float "
                '[N, 3, H, W] or uint8 [N, H, W, 3]'
            )
        height, width = shape[1:3] if takes_bytes else shape[2:]
        fixed = (width, height) if isinstance(width, int) and isinstance(height, int) else None
        if fixed and size and tuple(size) != fixed:
            raise DataError(
                f"model '{self._path}' takes images of {width}x{height} only, not "
                f'--size {size[0]} {size[1]}'
            )
        return inputs[0].name, takes_bytes, fixed or ((size[0], size[1]) if size else None)

    def _find_output(self, name: str | None) -> str:
        names = [o.name for o in self._session.get_outputs()]
        if name is not None and name not in names:
            raise DataError(f"model '{self._path}' has no output '{name}', but " + ', '.join(names))
        return name or ('labels' if 'labels' in names else names[0])

    def _contract_targets(self) -> list[int] | None:
        """What the classes of one of our own models are, by name; ``None`` for others."""
        try:
            classes = read_contract(self._path).classes
        except ContractError:
            return None
        targets = [UNLABELED] * (max((c.id for c in classes), default=-1) + 1)
        for c in classes:
            targets[c.id] = _target(c.name)
        return targets


def _probabilities(scores: np.ndarray) -> np.ndarray:
    """Softmax over the classes (C, h, w), unless these are probabilities already."""
    if scores.min() >= 0 and np.abs(scores.sum(0) - 1).max() < 1e-3:
        return scores
    scores = np.exp(scores - scores.max(0))
    return scores / scores.sum(0)


def _read_classes(text: str) -> list[int]:
    """The trainId of each class, from a file of lines or a list separated by commas."""
    path = Path(text)
    names = path.read_text().splitlines() if path.is_file() else text.split(',')
    return [_target(name.strip()) for name in names if name.strip()]


def _target(name: str) -> int:
    """A trainId from a class's name or number."""
    ids = {c.name: c.id for c in CITYSCAPES} | {str(c.id): c.id for c in CITYSCAPES}
    ids |= {NO_CLASS: UNLABELED, str(UNLABELED): UNLABELED}
    if name not in ids:
        raise DataError(
            f"class '{name}' is none of Cityscapes': expected "
            f'{", ".join(c.name for c in CITYSCAPES)}, a trainId, or {NO_CLASS} for '
            'none of them'
        )
    return ids[name]
