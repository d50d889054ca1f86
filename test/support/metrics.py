"""Metrics of whole images and paths in one call, as tests ask for them."""

import numpy as np

from depth_ros.core.metrics.depth import DepthMetrics, depth_errors, prepare_depth
from depth_ros.core.metrics.trajectory import Similarity, umeyama_alignment


def depth_metrics(predicted: np.ndarray, truth: np.ndarray, **options) -> DepthMetrics:
    """Errors of one depth image (H, W), metres; `options` of `prepare_depth`."""
    prepared = prepare_depth(predicted, truth, **options)
    return depth_errors(prepared.depth[prepared.valid], np.asarray(truth)[prepared.valid])


def aligned_rmse(
    estimate: np.ndarray, truth: np.ndarray, with_scale: bool
) -> tuple[float, Similarity]:
    """Root mean square error of positions (N, 3) after Umeyama's alignment, and the alignment."""
    fit = umeyama_alignment(estimate, truth, with_scale)
    aligned = fit.scale * estimate @ fit.rotation.T + fit.translation
    return float(np.sqrt(np.mean(np.sum((aligned - truth) ** 2, axis=1)))), fit
