"""Adjustment of poses and inverse depths."""

import numpy as np
import pytest

from depth_ros.core import bundle
from depth_ros.core.bundle import Points, adjust, exponential, rigid
from depth_ros.core.se3 import inverse, pose, rotation_from_vector

FOCAL = 370.0, 360.0


def scene(seed=0, points=150, cameras=5):
    """Poses, points and where the cameras see them, exactly."""
    random = np.random.default_rng(seed)
    poses = np.array(
        [
            pose(rotation_from_vector(0.02 * k * np.array([0.1, 1, 0.2])), [0, 0, -1.0 * k])
            for k in range(cameras)
        ]
    )
    host = np.sort(random.integers(0, cameras, points))
    bearing = np.column_stack(
        [random.uniform(-0.8, 0.8, points), random.uniform(-0.25, 0.25, points), np.ones(points)]
    )
    rho = 1 / random.uniform(8, 60, points)
    rho[:5] = 0.0  # at infinity
    seen = np.empty((points, cameras, 2))
    for j in range(cameras):
        for i in range(points):
            y = (poses[j] @ inverse(poses[host[i]]))[:3] @ np.append(bearing[i], rho[i])
            seen[i, j] = y[:2] / y[2]
    return poses, Points(bearing, host, rho, rho, np.zeros(points)), seen


def solve(poses, points, seen, **options):
    options = {'fixed': 2, 'sigma': 0.5, 'huber': 50.0, 'iterations': 10, **options}
    return adjust(poses, points, seen, FOCAL, **options)


def test_it_finds_poses_and_depths_from_wrong_ones():
    poses, points, seen = scene()
    random = np.random.default_rng(1)
    start = poses.copy()
    for k in range(2, len(poses)):
        xi = np.r_[0.1 * random.normal(size=3), 0.01 * random.normal(size=3)]
        start[k] = exponential(xi) @ poses[k]
    wrong = points.rho * np.exp(0.2 * random.normal(size=len(points.rho)))
    found = solve(start, Points(points.bearing, points.host, wrong, wrong, points.weight), seen)
    np.testing.assert_allclose(found.poses, poses, atol=1e-7)
    np.testing.assert_allclose(found.rho, points.rho, atol=1e-8)
    assert np.nanmax(found.residual) < 1e-6
    np.testing.assert_array_equal(found.poses[:2], start[:2])


def test_derivatives_are_those_of_the_cost():
    random = np.random.default_rng(2)
    poses, points, seen = scene(points=8, cameras=3)
    seen = seen + 0.01 * random.normal(size=seen.shape)
    there = np.ones(seen.shape[:2], bool)
    there[np.arange(8), points.host] = False

    def system(poses, rho):
        return bundle._linearise(poses, points, rho, seen, there, FOCAL, 0.5, 1e9)

    found, h = system(poses, points.rho), 1e-6
    for i in range(18):
        costs = []
        for sign in (1, -1):
            changed, xi = poses.copy(), np.zeros(6)
            xi[i % 6] = sign * h
            changed[i // 6] = exponential(xi) @ changed[i // 6]
            costs.append(system(changed, points.rho).cost)
        slope = (costs[0] - costs[1]) / (4 * h)
        assert slope == pytest.approx(found.gradient[i], rel=1e-5, abs=1e-3)
    for i in range(8):
        change = h * np.eye(8)[i]
        costs = [system(poses, points.rho + s * change).cost for s in (1, -1)]
        slope = (costs[0] - costs[1]) / (4 * h)
        assert slope == pytest.approx(found.depth_gradient[i], rel=1e-5, abs=1e-3)


def test_outliers_hardly_count():
    poses, points, seen = scene()
    random = np.random.default_rng(3)
    seen = seen + random.normal(0, 0.3 / 370, seen.shape)
    wrong = random.random(seen.shape[:2]) < 0.1
    seen[wrong] += 0.1
    found = solve(poses, points, seen, sigma=0.3, huber=2.5)
    assert np.linalg.norm(found.poses[-1][:3, 3] - poses[-1][:3, 3]) < 0.03


def test_information_is_that_of_the_errors():
    """The pose's error, over many drawings of noise, is as large as is said of it."""
    ratios = []
    for seed in range(60):
        poses, points, seen = scene(seed=4, points=80, cameras=2)
        points.host[:] = 0
        random = np.random.default_rng(seed)
        seen = seen + random.normal(0, 0.5 / 370, seen.shape)
        sure = Points(points.bearing, points.host, points.rho, points.rho, np.full(80, 1e10))
        for i in range(80):
            y = poses[1][:3] @ np.append(points.bearing[i], points.rho[i])
            seen[i, 1] = y[:2] / y[2] + random.normal(0, 0.5, 2) / FOCAL
        found = solve(poses, sure, seen, fixed=1)
        error = found.poses[1] @ inverse(poses[1])
        xi = np.r_[error[:3, 3], error[2, 1], error[0, 2], error[1, 0]]
        ratios.append(xi @ found.information @ xi)
    assert np.mean(ratios) == pytest.approx(6, rel=0.3)


def test_rotations_stay_rotations():
    bent = np.eye(4)
    bent[:3, :3] += 1e-3 * np.random.default_rng(0).normal(size=(3, 3))
    r = rigid(bent)[:3, :3]
    np.testing.assert_allclose(r @ r.T, np.eye(3), atol=1e-14)
