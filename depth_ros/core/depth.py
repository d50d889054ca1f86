"""What the perception network's outputs mean for the camera that it looks through."""

from __future__ import annotations

import numpy as np

from depth_ros.inference.contract import ModelContract


def depth_factor(contract: ModelContract, focal: float, scale: float) -> float:
    """Factor from the network's depth to this camera's, and to metres where that is known.

    Args:
        contract: the network's.
        focal: :attr:`depth_ros.core.camera.ImageFit.depth_factor`.
        scale: metres per unit of a model that is not metric, 0 where it is not known.
    """
    if contract.affine_invariant:
        return 1.0  # with an unknown shift, no factor makes metres of it
    return focal if contract.metric else focal * (scale or 1.0)


def camera_depth(
    depth: np.ndarray,
    labels: np.ndarray | None,
    contract: ModelContract,
    factor: float,
    max_depth: float = 0.0,
) -> np.ndarray:
    """Depth as the node publishes it.

    Invalid is what lies outside the model's range or beyond ``max_depth``, and the sky, which has
    no depth.

    Args:
        depth: float32 (H, W) as the network gives it.
        labels: uint8 (H, W), its class ids; ``None`` without.
        contract: the network's.
        factor: :func:`depth_factor`.
        max_depth: in the unit of the result; 0 for no limit. Affine-invariant depth, which has no
            unit, is not limited.

    Returns:
        float32 (H, W) along the optical axis, metres or model units; NaN = invalid.
    """
    near, far = contract.depth_range
    if max_depth and not contract.affine_invariant:
        far = min(far, max_depth / factor)
    # Comparisons with NaN are false, so this rejects NaN, too.
    valid = depth >= near
    valid &= depth <= far
    sky = contract.class_id('sky')
    if sky is not None and labels is not None:
        valid &= labels != sky
    result = depth * np.float32(factor)
    np.copyto(result, np.nan, where=~valid)
    return result
