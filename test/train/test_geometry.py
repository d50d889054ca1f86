"""Projective geometry of training, against cases worked out by hand and float64 references."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from depth_ros.core import camera as reference
from depth_ros.core.se3 import pose as reference_pose
from depth_ros.core.se3 import rotation_from_vector as reference_rotation
from train.geometry import (
    Projection,
    in_view,
    invert_transform,
    rotation_from_euler,
    rotation_from_vector,
    sample,
    scale_intrinsics,
    transform_from_euler_pose,
    transform_from_pose,
)

INTRINSICS = torch.tensor([[[8.0, 0, 3.5], [0, 8.0, 2.5], [0, 0, 1]]], dtype=torch.float64)


def test_a_quarter_turn_about_z():
    turned = rotation_from_vector(torch.tensor([[0, 0, np.pi / 2]])) @ torch.tensor([1.0, 0, 0])
    torch.testing.assert_close(turned, torch.tensor([[0.0, 1.0, 0.0]]), atol=1e-6, rtol=0)


@pytest.mark.parametrize('size', [0, 1e-9, 1e-4, 0.1, 1.0, 3.0])
def test_rotation_equals_the_robots(size):
    vector = size * np.array([0.48, -0.6, 0.64])
    np.testing.assert_allclose(
        rotation_from_vector(torch.from_numpy(vector)[None])[0],
        reference_rotation(vector),
        atol=1e-12,
    )


@pytest.mark.parametrize('size', [0.0, 1e-5, 0.3])
def test_rotation_has_the_right_gradient(size):
    vector = (size * torch.tensor([[0.48, -0.6, 0.64]], dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(rotation_from_vector, vector)


def test_inverse_undoes():
    transform = transform_from_pose(torch.tensor([[0.1, 0.2, -0.3, 1.0, 2.0, 3.0]]))
    torch.testing.assert_close(
        invert_transform(transform) @ transform, torch.eye(4)[None], atol=1e-6, rtol=0
    )


def test_scaled_intrinsics_see_the_same_ray():
    half = scale_intrinsics(INTRINSICS, 0.5, 0.5)
    # The 2x2 block of pixels (2, 4)..(3, 5) becomes pixel (1, 2): its centre is (2.5, 4.5).
    ray = torch.linalg.inv(INTRINSICS[0]) @ torch.tensor([2.5, 4.5, 1], dtype=torch.float64)
    torch.testing.assert_close(half[0] @ ray, torch.tensor([1, 2, 1], dtype=torch.float64))


def test_euler_angles_turn_about_z_then_y_then_x():
    quarter = torch.pi / 2
    turned = rotation_from_euler(torch.tensor([[quarter, 0, quarter]])) @ torch.tensor([1.0, 0, 0])
    # About z, x becomes y; about x, that becomes z.
    torch.testing.assert_close(turned, torch.tensor([[0.0, 0.0, 1.0]]), atol=1e-6, rtol=0)


def test_euler_angles_equal_scipys():
    angles = np.array([[0.3, -0.5, 0.7], [3.0, 1.0, -2.0]])
    np.testing.assert_allclose(
        rotation_from_euler(torch.from_numpy(angles)),
        Rotation.from_euler('XYZ', angles).as_matrix(),
        atol=1e-12,
    )


def test_euler_angles_are_clipped_to_half_a_turn():
    wild = rotation_from_euler(torch.tensor([[4.0, 0, -9.0]]))
    torch.testing.assert_close(wild, rotation_from_euler(torch.tensor([[torch.pi, 0, -torch.pi]])))


def test_euler_poses_begin_with_the_translation():
    transform = transform_from_euler_pose(torch.tensor([[1.0, 2, 3, 0, 0, torch.pi / 2]]))
    found = transform @ torch.tensor([1.0, 0, 0, 1])
    torch.testing.assert_close(found, torch.tensor([[1.0, 3, 3, 1]]))


def test_euler_poses_have_the_right_gradient():
    pose = torch.tensor([[0.1, 0.2, 0.3, 0.4, -0.5, 0.6]], dtype=torch.float64)
    assert torch.autograd.gradcheck(transform_from_euler_pose, pose.requires_grad_())


def pixels_of(grid, height=6, width=8):
    """Pixels (..., 2) of sampling coordinates."""
    return (grid + 1) / 2 * torch.tensor([width - 1, height - 1], dtype=grid.dtype)


def test_without_motion_every_pixel_stays():
    disparity = 1 / (1 + torch.rand(1, 1, 6, 8, dtype=torch.float64))
    grid, nearness, in_front = Projection(
        torch.eye(4, dtype=torch.float64)[None], INTRINSICS, 6, 8
    )(disparity)
    v, u = torch.meshgrid(torch.arange(6.0), torch.arange(8.0), indexing='ij')
    torch.testing.assert_close(pixels_of(grid)[0], torch.stack([u, v], -1).double())
    torch.testing.assert_close(nearness, torch.ones_like(nearness))  # the depth is the same
    assert in_front.all() and in_view(grid).all()


def test_a_point_by_hand():
    # Pixel (5, 2) at 4 m: (0.75, -0.25, 4). Seen from 2 m further on: (0.75, -0.25, 2).
    forward = torch.eye(4, dtype=torch.float64)[None].clone()
    forward[0, 2, 3] = -2
    disparity = torch.full((1, 1, 6, 8), 0.25, dtype=torch.float64)
    grid, nearness, _ = Projection(forward, INTRINSICS, 6, 8)(disparity)
    torch.testing.assert_close(pixels_of(grid)[0, 2, 5], torch.tensor([6.5, 1.5]).double())
    torch.testing.assert_close(nearness[0, 0, 2, 5] / 0.25, torch.tensor(2.0).double())


def test_projection_equals_the_long_way_round():
    generator = torch.Generator().manual_seed(0)
    disparity = 0.1 + torch.rand(2, 1, 6, 8, dtype=torch.float64, generator=generator)
    transform = transform_from_pose(
        0.2 * torch.randn(2, 6, dtype=torch.float64, generator=generator)
    )
    intrinsics = torch.cat([INTRINSICS, INTRINSICS * torch.tensor([[1.5], [1.2], [1]])])
    grid, nearness, _ = Projection(transform, intrinsics, 6, 8)(disparity)
    v, u = torch.meshgrid(torch.arange(6.0), torch.arange(8.0), indexing='ij')
    pixels = torch.stack([u, v, torch.ones_like(u)]).double().flatten(1)
    rays = torch.linalg.inv(intrinsics) @ pixels
    points = transform[:, :3, :3] @ (rays / disparity.flatten(2)) + transform[:, :3, 3:]
    image = intrinsics @ points
    pixels = (image[:, :2] / image[:, 2:]).unflatten(2, (6, 8)).permute(0, 2, 3, 1)
    torch.testing.assert_close(pixels_of(grid), pixels)
    torch.testing.assert_close((nearness / disparity).flatten(2), points[:, 2:])


def test_projection_and_scaling_equal_the_robots():
    camera = reference.Intrinsics(8.0, 9.0, 3.5, 2.5, 8, 6)
    intrinsics = torch.from_numpy(camera.matrix)[None]
    np.testing.assert_allclose(
        scale_intrinsics(intrinsics, 0.5, 1.5)[0],
        reference.scale_intrinsics(camera.matrix, 0.5, 1.5),
        rtol=1e-12,
    )
    vector = np.array([0.05, -0.1, 0.02, 0.3, -0.2, 0.5])
    depth = np.random.default_rng(0).uniform(2, 9, (6, 8)).astype(np.float32)
    motion = reference_pose(reference_rotation(vector[:3]), vector[3:])
    x, y, z = reference.reproject(depth, camera, motion)
    disparity = torch.from_numpy(1 / depth.astype(float))[None, None]
    transform = transform_from_pose(torch.from_numpy(vector)[None])
    grid, nearness, _ = Projection(transform, intrinsics, 6, 8)(disparity)
    np.testing.assert_allclose(pixels_of(grid)[0], np.stack([x / z, y / z], -1), atol=1e-5)
    np.testing.assert_allclose((nearness / disparity)[0, 0], z, rtol=1e-5)


def test_sampling_by_whole_pixels():
    source = torch.arange(48, dtype=torch.float64).view(1, 1, 6, 8)
    shift = torch.eye(4, dtype=torch.float64)[None].clone()
    shift[0, 0, 3] = 2.0  # 2 m to the side at depth 8 and focal length 8: two pixels
    grid, _, _ = Projection(shift, INTRINSICS, 6, 8)(torch.full((1, 1, 6, 8), 1 / 8).double())
    torch.testing.assert_close(sample(source, grid)[..., :6], source[..., 2:])
    assert in_view(grid)[..., :6].all() and not in_view(grid)[..., 6:].any()


def test_points_behind_the_camera_are_not_in_front():
    back = torch.eye(4, dtype=torch.float64)[None].clone()
    back[0, 2, 3] = -5
    disparity = torch.full((1, 1, 6, 8), 1.0, dtype=torch.float64)
    disparity[..., 4:] = 0.1
    grid, nearness, in_front = Projection(back, INTRINSICS, 6, 8)(disparity)
    assert not in_front[..., :4].any() and in_front[..., 4:].all()
    assert (nearness[..., :4] < 0).all() and grid.isfinite().all()


def test_projection_has_the_right_gradient():
    generator = torch.Generator().manual_seed(0)
    source = torch.rand(1, 1, 6, 8, dtype=torch.float64, generator=generator)
    disparity = 0.2 + 0.05 * torch.rand(1, 1, 6, 8, dtype=torch.float64, generator=generator)
    pose = torch.tensor([[0.01, 0.02, -0.01, 0.13, 0.07, 0.11]], dtype=torch.float64)

    def synthesized(disparity, pose, focal):
        intrinsics = INTRINSICS * torch.stack([focal, focal, torch.ones_like(focal)])[:, None]
        grid, nearness, _ = Projection(transform_from_pose(pose), intrinsics, 6, 8)(disparity)
        return sample(source, grid) * in_view(grid), nearness

    inputs = (disparity, pose, torch.tensor(1.0, dtype=torch.float64))
    assert torch.autograd.gradcheck(synthesized, tuple(x.requires_grad_() for x in inputs))
