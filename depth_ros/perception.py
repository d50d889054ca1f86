"""What the perception network's outputs mean for the camera that it looks through."""

from __future__ import annotations

import numpy as np

from depth_ros.contract import ModelContract


def camera_depth(depth: np.ndarray, labels: np.ndarray | None, contract: ModelContract,
                 factor: float, max_depth: float = 0.0) -> np.ndarray:
    """Depth as the node publishes it.

    Invalid is what lies outside the model's range or beyond ``max_depth``, and the sky, which has
    no depth.

    Args:
        depth: float32 (H, W) as the network gives it.
        labels: uint8 (H, W), its class ids; ``None`` without.
        contract: the network's.
        factor: from the network's depth to this camera's, and to metres where that is known.
        max_depth: in the unit of the result; 0 for no limit.

    Returns:
        float32 (H, W) along the optical axis, metres or model units; NaN = invalid.
    """
    near, far = contract.depth_range
    if max_depth:
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
