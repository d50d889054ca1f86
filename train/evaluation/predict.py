"""Depth, classes and motion from a trained network, whatever file it is in.

    predictor = load_predictor('models')             # or one .onnx file, or a checkpoint
    depth = predictor.depth(rgb)

Images are uint8 (H, W, 3) RGB, of the size that the network takes. Poses are 4x4 matrices
``T_a_b`` that take points from camera b to camera a.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from depth_ros.core.camera import Intrinsics
from depth_ros.core.se3 import pose, rotation_from_vector
from depth_ros.inference.contract import SemanticClass
from depth_ros.inference.engine import Engine
from depth_ros.inference.loader import load_engine
from train.data.sequences import DataError

MODELS = Path(__file__).resolve().parents[2] / 'models'
"""Folder of the models that ship."""


class Perceived(NamedTuple):
    """What the perception network says about one image.

    Attributes:
        depth: float32 (h, w), at network size, along the optical axis, metres or model units;
            ``None`` without.
        labels: uint8 (h, w), ids of the predictor's classes; ``None`` without.
    """

    depth: np.ndarray | None
    labels: np.ndarray | None


class Predictor(ABC):
    """A trained model: a perception network, a pose network, or both.

    Attributes:
        perception_size: (width, height) of the perception network's images; ``None`` without one.
        pose_size: the same of the pose network.
        camera: camera of the training, at network size, that depth is corrected by for another
            one; ``None`` where it is not known.
        pose_camera: that of the pose network, likewise.
        depth_range: nearest and farthest depth that the network can say, metres for its camera;
            ``None`` where it is not known.
        classes: the semantic classes; empty without semantics.
        affine: whether depth is known only up to scale and shift of its inverse.
        metric: whether depth is in metres.
        views: how many consecutive frames the pose network sees at once.
    """

    perception_size: tuple[int, int] | None = None
    pose_size: tuple[int, int] | None = None
    camera: Intrinsics | None = None
    pose_camera: Intrinsics | None = None
    depth_range: tuple[float, float] | None = None
    classes: tuple[SemanticClass, ...] = ()
    affine: bool = False
    metric: bool = False
    views: int = 2

    def perceive(self, image: np.ndarray, flip: bool = False) -> Perceived:
        """Depth and classes of an image.

        Args:
            image: the image.
            flip: average depth with that of the mirrored image, as Godard et al. 2017 (section
                4.3, post-processing) do: disparity is averaged in the middle; near a side, that
                of the pass in which the side was not occluded counts alone.

        Raises:
            DataError: if the model has no perception network.
        """
        if self.perception_size is None:
            raise DataError('the model has no perception network: give one for depth and semantics')
        depth, labels = self._perceive(image)
        if flip and depth is not None:
            mirrored = self._perceive(np.ascontiguousarray(image[:, ::-1])).depth
            assert mirrored is not None
            depth = blend(depth, mirrored[:, ::-1])
        return Perceived(depth, labels)

    def depth(self, image: np.ndarray, flip: bool = False) -> np.ndarray:
        """Depth float32 (H, W) of an image; see :meth:`perceive`."""
        depth = self.perceive(image, flip).depth
        if depth is None:
            raise DataError('the model has no depth output')
        return depth

    def labels(self, image: np.ndarray) -> np.ndarray:
        """Class ids uint8 (H, W) of an image; see :meth:`perceive`."""
        labels = self.perceive(image).labels
        if labels is None:
            raise DataError('the model has no semantic output')
        return labels

    def windows(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Run the pose network on each window of ``views`` consecutive frames.

        Yields:
            Poses T_first_i (views, 4, 4) of the cameras in the window's first one.

        Raises:
            DataError: if the model has no pose network or there are fewer frames than views.
        """
        if self.pose_size is None:
            raise DataError('the model has no pose network: give one for odometry')
        window: deque[np.ndarray] = deque(maxlen=self.views)
        for frame in frames:
            window.append(frame)
            if len(window) == self.views:
                yield self._window(window)
        if len(window) < self.views:
            raise DataError(
                f'the pose network sees {self.views} frames at once, given are {len(window)}'
            )

    def motion(self, previous: np.ndarray, current: np.ndarray) -> np.ndarray:
        """T_previous_current (4, 4), of a pose network that sees pairs; see :meth:`windows`."""
        return self.snippet([previous, current])[1]

    def snippet(self, frames: Iterable[np.ndarray]) -> np.ndarray:
        """Poses T_first_i (N, 4, 4) of N consecutive frames; see :meth:`windows`, :func:`chain`."""
        return chain(self.windows(frames))

    @abstractmethod
    def _perceive(self, image: np.ndarray) -> Perceived:
        """Run the perception network, which there is."""

    @abstractmethod
    def _window(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """Run the pose network, which there is, on ``views`` frames."""


def blend(depth: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """Average two depths (H, W) of an image by disparity; see :meth:`Predictor.perceive`.

    Args:
        depth: of the image.
        mirrored: of the mirrored image, mirrored back.
    """
    across = np.linspace(0, 1, depth.shape[1])
    left = 1 - np.clip(20 * (across - 0.05), 0, 1)  # 1 up to 5 % of the width, 0 from 10 % on
    weight = 0.5 + 0.5 * (left[::-1] - left)
    return (1 / (weight / depth + (1 - weight) / mirrored)).astype(np.float32)


def chain(windows: Iterable[np.ndarray]) -> np.ndarray:
    """Poses T_first_i (N, 4, 4) of all frames, from those of each window of successive frames.

    The step between two frames is taken from the window that has the second one in its middle,
    where such networks are trained to be right; at both ends from the first and the last window.

    Args:
        windows: (views, 4, 4) each, from :meth:`Predictor.windows`.
    """
    steps: list[np.ndarray] = []
    for window in windows:
        local = np.linalg.inv(window[:-1]) @ window[1:]
        target = len(window) // 2
        steps.extend(local[target - 1 : target] if steps else local[:target])
    steps.extend(local[target:])
    poses = [np.eye(4)]
    for step in steps:
        poses.append(poses[-1] @ step)
    return np.array(poses)


class OnnxPredictor(Predictor):
    """Exported files, run by the engine that the robot runs.

    Args:
        engines: by task, ``perception`` and ``pose``; one may be missing.
    """

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        self._engines = engines
        sizes: dict[str, tuple[int, int]] = {}
        for task, engine in engines.items():
            height, width, _ = engine.contract.image_shape
            sizes[task] = width, height
        self.perception_size, self.pose_size = sizes.get('perception'), sizes.get('pose')
        if 'perception' in engines:
            contract = engines['perception'].contract
            self.camera = contract.camera
            self.classes = contract.classes
            self.affine = contract.affine_invariant
            self.metric = contract.metric
            if contract.metric and not self.affine and 'depth' in contract.outputs:
                self.depth_range = contract.depth_limits
        if 'pose' in engines:
            self.pose_camera = engines['pose'].contract.camera

    def _perceive(self, image: np.ndarray) -> Perceived:
        outputs = self._engines['perception'].infer({'image': image[None]})
        # The engine may reuse its buffers.
        return Perceived(
            *(outputs[name].copy() if name in outputs else None for name in ('depth', 'labels'))
        )

    def _window(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        previous, current = (frame[None] for frame in frames)
        step = self._engines['pose'].infer({'previous': previous, 'current': current})['pose']
        return np.stack([np.eye(4), _transform(step)])


class CheckpointPredictor(Predictor):
    """A checkpoint of a training, in model units.

    Args:
        system: a :class:`train.training.system.System` in eval mode.
    """

    def __init__(self, system) -> None:
        from depth_ros.inference.classes import CITYSCAPES
        from train.export.deployed import DeployedPerception

        config = system.config
        self._system = system
        self._perception = DeployedPerception(system.perception, 1.0).eval()
        self.perception_size = self.pose_size = (config.width, config.height)
        if config.focal:
            center = (config.width - 1) / 2, (config.height - 1) / 2
            self.camera = self.pose_camera = Intrinsics(
                config.focal, config.focal, *center, config.width, config.height
            )
        self._pairs = system.pose.pairs
        self.views = 2 if self._pairs else config.views
        if self._perceive(np.zeros((config.height, config.width, 3), np.uint8)).labels is not None:
            self.classes = CITYSCAPES

    def _perceive(self, image: np.ndarray) -> Perceived:
        import torch

        with torch.inference_mode():
            depth, *labels = self._perception(self._tensor([image]))
        return Perceived(depth.cpu().numpy(), labels[0].cpu().numpy() if labels else None)

    def _window(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        import torch

        with torch.inference_mode():
            images = self._tensor(frames).permute(0, 3, 1, 2).float() / 255
            if self._pairs:
                step = self._system.pose(images[:1], images[1:])[0].cpu().numpy()
                return np.stack([np.eye(4), _transform(step)])
            # T_source_target of the sources in temporal order.
            to_sources = self._system.transforms(images[None])[0].double().cpu().numpy()
        to_target = np.linalg.inv(np.insert(to_sources, self.views // 2, np.eye(4), axis=0))
        return to_sources[0] @ to_target

    def _tensor(self, images: Sequence[np.ndarray]):
        import torch

        return torch.from_numpy(np.stack(images)).to(self._system.device)


def load_predictor(path: str | Path, backend: str = 'auto', threads: int = 2) -> Predictor:
    """Load a model.

    Args:
        path: a folder with perception.onnx, pose.onnx or both, one ``.onnx`` file, or a ``.ckpt``
            of a training.
        backend, threads: of the runtime of ``.onnx`` files, see
            :func:`depth_ros.inference.loader.load_engine`.

    Raises:
        DataError: if there is no model at ``path``.
        ContractError, EngineError: if an ``.onnx`` file cannot be used.
    """
    path = Path(path)
    if path.suffix == '.ckpt':
        from train.training.system import load_system

        return CheckpointPredictor(load_system(path))
    files = [path]
    if path.is_dir():
        files = [f for f in (path / 'perception.onnx', path / 'pose.onnx') if f.exists()]
        if not files:
            raise DataError(
                f"'{path}' has neither perception.onnx nor pose.onnx: export a "
                'checkpoint to it, or name a .ckpt file'
            )
    engines = [load_engine(file, backend, threads) for file in files]
    return OnnxPredictor({engine.contract.task: engine for engine in engines})


def _transform(step: np.ndarray) -> np.ndarray:
    """4x4 of a rotation vector and a translation (6,)."""
    return pose(rotation_from_vector(step[:3]), step[3:])
