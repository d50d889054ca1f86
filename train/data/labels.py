"""Pseudo-labels from a segmentation network of any origin, as Cityscapes' trainIds."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import onnxruntime

from depth_ros.core.labels import UNLABELED
from depth_ros.files import file_hash
from depth_ros.inference.classes import CITYSCAPES
from depth_ros.inference.contract import ContractError, read_contract
from train.data.sequences import DataError, resize_image, resize_map

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES = len(CITYSCAPES)
NO_CLASS = '-'
ENLARGED, SHRUNK, STRETCHED = 1.2, 0.5, 1.15
"""Factors of an image's size, and of its aspect ratio, beyond which the resize decides about the
masks more than the network does."""


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
        DataError: if the model or an option cannot be used.
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
        # Threads that wait would keep processors busy that others need.
        options.add_session_config_entry('session.intra_op.allow_spinning', '0')
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
        size = self._input_size(width, height)
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

    def doubt(self, width: int, height: int) -> str:
        """Say what the resize does to images of a size if it decides about the masks, else ''."""
        size = self._input_size(width, height)
        across, down = size[0] / width, size[1] / height
        found = []
        if max(across, down) > ENLARGED:
            found.append(f'enlarged {max(across, down):.1f} times')
        if min(across, down) < SHRUNK:
            found.append(f'shrunk to {min(across, down):.2f} of their size')
        if max(across / down, down / across) > STRETCHED:
            found.append(f'stretched {max(across / down, down / across):.2f} times')
        if not found:
            return ''
        return (
            f'images of {width}x{height} are {" and ".join(found)} to the {size[0]}x{size[1]} that '
            'the network takes, which costs more than another network gains: '
            + (
                'export it with a height and width that are dynamic, or near those of the images'
                if self._fixed
                else 'choose a --size near that of the images'
            )
        )

    def _input_size(self, width: int, height: int) -> tuple[int, int]:
        if self._size:
            return self._size
        return max(32, round(width / 32) * 32), max(32, round(height / 32) * 32)

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
        elif found.ndim == 4 and found.shape[0] == 1 and found.shape[3] == 1:
            found = found[..., 0]
        if found.ndim == 4:
            scores = self._classes_first(found)
            return self._merge(_probabilities(scores.astype(np.float32)))
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

    def _classes_first(self, found: np.ndarray) -> np.ndarray:
        """Scores (classes, h, w) of an output [1, classes, h, w] or [1, h, w, classes]."""
        known = len(self._targets or range(CLASSES))
        if found.shape[1] == known:
            return found[0]
        if found.shape[3] == known:
            return found[0].transpose(2, 0, 1)
        count = f'{found.shape[1]} classes, or {found.shape[3]} if they come last'
        if found.shape[3] > 1000:
            count = f'{found.shape[1]} classes'
        raise DataError(
            f"output '{self._output}' of '{self._path}' has the shape {found.shape}, which are "
            f'{count}, but {known} classes are known: say with --classes what they are'
        )

    def _merge(self, probabilities: np.ndarray) -> np.ndarray:
        """Probabilities (20, h, w) of Cityscapes' classes, and last of none of them."""
        targets = self._targets or list(range(CLASSES))
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
        self._fixed = fixed is not None
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


def model_hash(path: Path) -> str:
    """SHA-256 of a model and of the files that hold its weights where they lie beside it."""
    import onnx
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    found = hashlib.sha256(file_hash(path).encode())
    graph = onnx.load(path, load_external_data=False).graph
    names = {ExternalDataInfo(t).location for t in graph.initializer if uses_external_data(t)}
    for name in sorted(names):
        found.update(file_hash(path.parent / name).encode())
    return found.hexdigest() if names else file_hash(path)


def _probabilities(scores: np.ndarray) -> np.ndarray:
    """Softmax over the classes (C, h, w), unless these are probabilities already."""
    if scores.min() >= 0 and np.abs(scores.sum(0) - 1).max() < 1e-3:
        return scores
    scores = np.exp(scores - scores.max(0))
    return scores / scores.sum(0)


def _read_classes(text: str) -> list[int]:
    """The trainId of each class, from a file of lines or a list separated by commas."""
    path = Path(text)
    if not path.is_file() and ',' not in text and ('/' in text or path.suffix or path.exists()):
        what = 'is a folder' if path.is_dir() else 'does not exist'
        raise DataError(f"--classes: the file '{text}' {what}; give a file of names, or a list")
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
