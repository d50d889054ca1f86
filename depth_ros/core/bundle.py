"""Gauss-Newton on the poses of a few cameras and the inverse depths of the points that they see.

Each point lies on the ray on which its host, one of the cameras, saw it, at an inverse depth rho:
it is m / rho in the host's optical frame with m = (x, y, 1). Another camera j sees it at

    p = pi(R_jh m + rho t_jh),    pi(X) = f (X / Z, Y / Z)

so that a point at infinity is no special case (Civera et al. 2008, "Inverse depth parametrization
for monocular SLAM"). The inverse depths are eliminated from the normal equations (Schur
complement); residuals are weighted by Huber's function.

Poses are T_camera_world 4x4 and their corrections xi = (v, w) act on the left: exp(xi) T.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from depth_ros.core.se3 import pose, rotation_from_vector, skew

NEAR = 0.05
"""Least share of the host's distance at which a point is still taken to lie before a camera."""


@dataclass
class Points:
    """Points as their hosts saw them.

    Attributes:
        bearing: (N, 3), x, y, 1 in the host's optical frame.
        host: int (N,), number of the host camera.
        rho: (N,), inverse depth in the host's optical frame.
        prior: (N,), what rho is believed to be.
        weight: (N,), 1 / variance of the prior; 0 for none.
    """

    bearing: np.ndarray
    host: np.ndarray
    rho: np.ndarray
    prior: np.ndarray
    weight: np.ndarray


@dataclass
class Solution:
    """What the adjustment found.

    Attributes:
        poses: (W, 4, 4).
        rho: (N,).
        information: of the free poses' corrections, (6 F, 6 F), pixels squared already divided.
        rho_weight: (N,), 1 / variance of rho with the poses held.
        residual: (N, W), pixels; NaN where a point was not seen.
    """

    poses: np.ndarray
    rho: np.ndarray
    information: np.ndarray
    rho_weight: np.ndarray
    residual: np.ndarray


def exponential(xi: np.ndarray) -> np.ndarray:
    """The pose 4x4 of a small correction (v, w), with the translation as it is."""
    return pose(rotation_from_vector(xi[3:]), xi[:3])


def rigid(transform: np.ndarray) -> np.ndarray:
    """The pose 4x4 with its rotation made orthonormal.

    Rounding would otherwise double with every keyframe that is built upon the one before.
    """
    u, _, v = np.linalg.svd(transform[:3, :3])
    return pose(u @ v, transform[:3, 3])


def adjust(
    poses: np.ndarray,
    points: Points,
    seen: np.ndarray,
    focal: tuple[float, float],
    *,
    fixed: int,
    sigma: float,
    huber: float,
    iterations: int,
    held: tuple[np.ndarray, float] | None = None,
) -> Solution:
    """Adjust poses and inverse depths to what was seen.

    Args:
        poses: T_camera_world (W, 4, 4).
        points: sorted by host.
        seen: (N, W, 2) normalised image coordinates x / z, y / z; NaN where a point was not seen.
        focal: fx, fy, pixels.
        fixed: how many of the first poses are held.
        sigma: standard deviation of a coordinate, pixels.
        huber: residual from which the weight falls, in multiples of sigma.
        iterations: how many steps.
        held: what the translation (3,) of the last pose is believed to be, and the standard
            deviation of each of its coordinates; ``None``: nothing is.
    """
    poses = poses.copy()
    free = len(poses) - fixed
    there = np.isfinite(seen[..., 0])
    there[np.arange(len(seen)), points.host] = False  # lies on its ray by definition
    target = np.where(there[..., None], seen, 0.0)
    state = points.rho.copy()
    damping = 1e-4
    system = _linearise(poses, points, state, target, there, focal, sigma, huber, held)
    for _ in range(iterations):
        xi, drho = _solve(system, points, free, fixed, damping)
        trial = poses.copy()
        for k in range(free):
            trial[fixed + k] = rigid(exponential(xi[6 * k : 6 * k + 6]) @ poses[fixed + k])
        # Negative for some that are far: to hold them at zero would hold the poses up, too.
        moved = state + drho
        found = _linearise(trial, points, moved, target, there, focal, sigma, huber, held)
        if found.cost < system.cost:
            gain = system.cost - found.cost
            poses, state, system = trial, moved, found
            damping = max(0.1 * damping, 1e-6)
            if gain < 1e-3 * found.cost:
                break
        else:
            damping *= 30
            if damping > 10:
                break
    schur, _, weight = _reduced(system, points, free, fixed, 0.0)
    return Solution(poses, state, schur, weight, np.where(there, system.error, np.nan))


@dataclass
class _System:
    """The normal equations before the inverse depths are eliminated."""

    cost: float
    error: np.ndarray
    hessian: np.ndarray
    gradient: np.ndarray
    mixed: np.ndarray
    depth: np.ndarray
    depth_gradient: np.ndarray


def _linearise(
    poses: np.ndarray,
    points: Points,
    rho: np.ndarray,
    target: np.ndarray,
    there: np.ndarray,
    focal: tuple[float, float],
    sigma: float,
    huber: float,
    held: tuple[np.ndarray, float] | None = None,
) -> _System:
    count, width = there.shape
    rotation, translation = poses[:, :3, :3], poses[:, :3, 3]
    hosts = [np.s_[a:b] for a, b in _groups(points.host, width)]
    y = np.empty((count, width, 3))
    along = np.empty((count, width, 3))  # derivative of y by rho
    relative = np.empty((width, width, 3, 3))
    for h, rows in enumerate(hosts):
        if rows.start == rows.stop:
            continue
        turn = rotation @ rotation[h].T
        relative[h] = turn
        shift = translation - turn @ translation[h]
        y[rows] = np.einsum('jab,nb->nja', turn, points.bearing[rows])
        y[rows] += rho[rows, None, None] * shift
        along[rows] = shift
    ahead = y[..., 2] > NEAR
    usable = there & ahead
    z = np.where(ahead, y[..., 2], 1.0)
    fx, fy = focal
    projected = y[..., :2] / z[..., None]
    residual = (projected - target) * (fx, fy)
    residual[~usable] = 0.0
    error = np.hypot(residual[..., 0], residual[..., 1])
    error[there & ~ahead] = 1e3
    scaled = error / (sigma * huber)
    robust = np.where(scaled <= 1, 1.0, 1.0 / np.maximum(scaled, 1e-9))
    weight = np.where(usable, robust, 0.0) / sigma**2
    cost = float(
        huber**2 * np.sum(np.where(scaled <= 1, scaled**2, 2 * scaled - 1)[there])
        + np.sum(points.weight * (rho - points.prior) ** 2)
    )
    # Rows of the projection's Jacobian: (a, 0, c) and (0, b, d).
    a, b = fx / z, fy / z
    c, d = -a * projected[..., 0], -b * projected[..., 1]
    root = np.sqrt(weight)
    a, b, c, d = a * root, b * root, c * root, d * root
    residual = residual * root[..., None]
    r = rho[:, None]
    x0, x1, x2 = y[..., 0], y[..., 1], y[..., 2]
    jacobian = np.empty((count, width, 2, 12))
    own = jacobian[..., 6:]  # [rho I, -[y]x] under the projection
    own[..., 0, 0], own[..., 0, 1], own[..., 0, 2] = a * r, 0.0, c * r
    own[..., 1, 0], own[..., 1, 1], own[..., 1, 2] = 0.0, b * r, d * r
    # -[y]x = [[0, z, -y], [-z, 0, x], [y, -x, 0]]
    own[..., 0, 3], own[..., 0, 4], own[..., 0, 5] = c * x1, a * x2 - c * x0, -a * x1
    own[..., 1, 3], own[..., 1, 4], own[..., 1, 5] = -b * x2 + d * x1, -d * x0, b * x0
    by_rho = np.empty((count, width, 2))
    by_rho[..., 0] = a * along[..., 0] + c * along[..., 2]
    by_rho[..., 1] = b * along[..., 1] + d * along[..., 2]
    size = 6 * width
    hessian, gradient = np.zeros((size, size)), np.zeros(size)
    mixed = np.zeros((count, width, 6))
    mixed += np.einsum('njra,njr->nja', own, by_rho)
    for h, rows in enumerate(hosts):
        if rows.start == rows.stop:
            continue
        # The host's: -R_jh [rho I, -[m]x] under the same projection.
        m = np.zeros((rows.stop - rows.start, 3, 6))
        m[:, 0, 0] = m[:, 1, 1] = m[:, 2, 2] = -rho[rows]
        m[:, :, 3:] = _skews(points.bearing[rows])
        turned = np.zeros((rows.stop - rows.start, width, 2, 3))
        turned[:, :, 0, 0], turned[:, :, 0, 2] = a[rows], c[rows]
        turned[:, :, 1, 1], turned[:, :, 1, 2] = b[rows], d[rows]
        turned = turned @ relative[h]
        jacobian[rows, :, :, :6] = turned @ m[:, None]
        mixed[rows, h] += np.einsum('njra,njr->na', jacobian[rows, :, :, :6], by_rho[rows])
        hs = np.s_[6 * h : 6 * h + 6]
        for j in range(width):
            if j == h:
                continue
            block = jacobian[rows, j].reshape(-1, 12)
            js = np.s_[6 * j : 6 * j + 6]
            product = block.T @ block
            hessian[hs, hs] += product[:6, :6]
            hessian[js, js] += product[6:, 6:]
            hessian[hs, js] += product[:6, 6:]
            hessian[js, hs] += product[6:, :6]
            slope = block.T @ residual[rows, j].ravel()
            gradient[hs] += slope[:6]
            gradient[js] += slope[6:]
    depth = np.einsum('njr,njr->n', by_rho, by_rho) + points.weight
    depth_gradient = np.einsum('njr,njr->n', by_rho, residual)
    depth_gradient += points.weight * (rho - points.prior)
    if held is not None:  # t' = t + v - [t]x w
        off, last = (poses[-1, :3, 3] - held[0]) / held[1], np.s_[size - 6 :]
        row = np.hstack([np.eye(3), -skew(poses[-1, :3, 3])]) / held[1]
        cost += float(off @ off)
        hessian[last, last] += row.T @ row
        gradient[last] += row.T @ off
    return _System(
        cost, error, hessian, gradient, mixed.reshape(count, size), depth, depth_gradient
    )


def _reduced(
    system: _System, points: Points, free: int, fixed: int, damping: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matrix and right side of the free poses' corrections, and the weights of the depths."""
    start = 6 * fixed
    depth = system.depth * (1 + damping) + 1e-12
    mixed = system.mixed[:, start:]
    hessian = system.hessian[start:, start:].copy()
    hessian[np.diag_indices_from(hessian)] *= 1 + damping
    share = mixed / depth[:, None]
    schur = hessian - share.T @ mixed
    right = system.gradient[start:] - share.T @ system.depth_gradient
    return schur, right, depth


def _solve(
    system: _System, points: Points, free: int, fixed: int, damping: float
) -> tuple[np.ndarray, np.ndarray]:
    """Corrections of the free poses (6 F,) and of the inverse depths (N,)."""
    schur, right, depth = _reduced(system, points, free, fixed, damping)
    schur[np.diag_indices_from(schur)] += 1e-9
    try:
        xi = -np.linalg.solve(schur, right)
    except np.linalg.LinAlgError:
        xi = np.zeros(6 * free)
    drho = -(system.depth_gradient + system.mixed[:, 6 * fixed :] @ xi) / depth
    return xi, drho


def _groups(host: np.ndarray, width: int) -> list[tuple[int, int]]:
    """First and last row of each host's points, which are sorted by host."""
    edges = np.searchsorted(host, np.arange(width + 1)).tolist()
    return list(zip(edges[:-1], edges[1:], strict=True))


def _skews(vectors: np.ndarray) -> np.ndarray:
    """The matrices [v]x of vectors (N, 3)."""
    x, y, z = vectors.T
    result = np.zeros((len(vectors), 3, 3))
    result[:, 0, 1], result[:, 0, 2] = -z, y
    result[:, 1, 0], result[:, 1, 2] = z, -x
    result[:, 2, 0], result[:, 2, 1] = -y, x
    return result
