"""From a network's depth to the depth of the camera that it looks through."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class DepthModel(Protocol):
    """What must be known of a network to use its depth; a model's contract says it.

    Attributes:
        metric: whether the depth is in metres.
        affine_invariant: whether scale *and shift* of the depth are unknown.
        depth_limits: least and greatest depth that the network can express.
    """

    @property
    def metric(self) -> bool: ...

    @property
    def affine_invariant(self) -> bool: ...

    @property
    def depth_limits(self) -> tuple[float, float]: ...

    def class_id(self, name: str) -> int | None:
        """Id of the class called ``name`` in the labels; ``None`` where there is no such class."""


def depth_factor(model: DepthModel, focal: float, scale: float) -> float:
    """Factor from the network's depth to this camera's, in metres where the scale is known.

    Args:
        model: what the network's depth means.
        focal: :attr:`depth_ros.core.camera.ImageFit.depth_factor`.
        scale: metres per unit of depth, by :mod:`depth_ros.core.scale`; 0 where it is not known.
    """
    if model.affine_invariant:
        return 1.0  # with an unknown shift, no factor makes metres of it
    return focal * (scale or 1.0)


def camera_depth(
    depth: np.ndarray,
    labels: np.ndarray | None,
    model: DepthModel,
    factor: float,
    max_depth: float = 0.0,
) -> np.ndarray:
    """Depth as the perception node publishes it.

    Pixels outside the model's range, beyond ``max_depth`` or in the sky are invalid.

    Args:
        depth: float32 (H, W) as the network gives it.
        labels: uint8 (H, W), the network's class ids, or ``None``.
        model: what the network's depth means.
        factor: of :func:`depth_factor`.
        max_depth: in the unit of the result; 0 for no limit. Affine-invariant depth, which has no
            unit, is not limited.

    Returns:
        float32 (H, W) along the optical axis, metres or model units; NaN = invalid.
    """
    near, far = model.depth_limits
    if max_depth and not model.affine_invariant:
        far = min(far, max_depth / factor)
    # Comparisons with NaN are false, so this rejects NaN, too.
    valid = depth >= near
    valid &= depth <= far
    sky = model.class_id('sky')
    if sky is not None and labels is not None:
        valid &= labels != sky
    result = depth * np.float32(factor)
    np.copyto(result, np.nan, where=~valid)
    return result
