"""Checking a camera's intrinsics against its images.

Wrong intrinsics would give wrong depth without any other sign.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pycolmap

WINDOW = 40  # successive frames in one bundle adjustment with a free focal length
WINDOWS = 3
DOUBTFUL = 0.12  # relative error to warn of; right intrinsics are off by up to 4 %
WRONG = 0.2  # relative error to refuse
AGREED = 0.1  # largest relative range of the windows' focal lengths to rely on
ITERATIONS = 30


def fitted_focals(model: pycolmap.Reconstruction, threads: int) -> list[float]:
    """Estimate the horizontal focal length, in pixels, on several windows of frames.

    This takes about half a second of processor time for each window.

    Args:
        model: COLMAP's reconstruction, with a pinhole camera.
        threads: number of threads.

    Returns:
        The estimate of each window, except where the adjustment failed.
    """
    import pycolmap

    names = sorted(image.name for image in model.images.values() if image.has_pose)
    found = []
    for start in _starts(len(names)):
        window = pycolmap.Reconstruction(model)
        kept = set(names[start : start + WINDOW])
        for image in list(window.images.values()):
            if image.has_pose and image.name not in kept:
                window.deregister_frame(image.frame_id)
        options = pycolmap.BundleAdjustmentOptions()
        options.refine_focal_length = True
        options.refine_principal_point = False
        options.refine_extra_params = False
        options.print_summary = False
        options.ceres.loss_function_type = pycolmap.LossFunctionType.HUBER
        options.ceres.solver_options.num_threads = threads
        options.ceres.solver_options.max_num_iterations = ITERATIONS
        pycolmap.bundle_adjustment(window, options)
        focal = float(next(iter(window.cameras.values())).params[0])
        if np.isfinite(focal) and np.isfinite(window.compute_mean_reprojection_error()):
            found.append(focal)
    return found


def _starts(frames: int) -> list[int]:
    """First frames of windows, evenly spread over a number of frames."""
    if frames <= WINDOW:
        return [0] if frames else []
    return sorted({round(p * (frames - WINDOW)) for p in np.linspace(0, 1, WINDOWS + 2)[1:-1]})


def judge_focal(given: float, fitted: list[float]) -> tuple[str, bool]:
    """Compare a given focal length with the estimates.

    Args:
        given: the given focal length, pixels.
        fitted: estimates of :func:`fitted_focals`, pixels.

    Returns:
        What is wrong with it ('' if nothing is), and whether it is wrong for sure.
    """
    if not fitted:
        return '', False
    best = float(np.median(fitted))
    off = best / given - 1
    agreed = (max(fitted) - min(fitted)) / best < AGREED
    if abs(off) < DOUBTFUL or not agreed:
        return '', False
    text = (
        f'the pictures fit a focal length of {best:.0f} pixels, {100 * off:+.0f} % from the '
        f'{given:.0f} of the intrinsics'
    )
    return text, abs(off) > WRONG
