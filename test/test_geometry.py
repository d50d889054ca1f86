"""Projective geometry of training, against cases worked out by hand and float64 references."""

import numpy as np
import pytest
import torch

from depth_ros.odometry import rotation_from_vector as reference_rotation
from train.geometry import (
    invert_transform,
    project,
    rotation_from_vector,
    scale_intrinsics,
    transform_from_pose,
    unproject,
    warp,
)

INTRINSICS = torch.tensor([[[8.0, 0, 3.5], [0, 8.0, 2.5], [0, 0, 1]]], dtype=torch.float64)


def test_a_quarter_turn_about_z():
    turned = rotation_from_vector(torch.tensor([[0, 0, np.pi / 2]])) @ torch.tensor([1.0, 0, 0])
    torch.testing.assert_close(turned, torch.tensor([[0.0, 1.0, 0.0]]), atol=1e-6, rtol=0)


@pytest.mark.parametrize('size', [0, 1e-9, 1e-4, 0.1, 1.0, 3.0])
def test_rotation_equals_the_robots(size):
    vector = size * np.array([0.48, -0.6, 0.64])
    np.testing.assert_allclose(
        rotation_from_vector(torch.from_numpy(vector)[None])[0], reference_rotation(vector),
        atol=1e-12)


@pytest.mark.parametrize('size', [0.0, 1e-5, 0.3])
def test_rotation_has_the_right_gradient(size):
    vector = (size * torch.tensor([[0.48, -0.6, 0.64]], dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(rotation_from_vector, vector)


def test_inverse_undoes():
    transform = transform_from_pose(torch.tensor([[0.1, 0.2, -0.3, 1.0, 2.0, 3.0]]))
    torch.testing.assert_close(
        invert_transform(transform) @ transform, torch.eye(4)[None], atol=1e-6, rtol=0)


def test_scaled_intrinsics_see_the_same_ray():
    half = scale_intrinsics(INTRINSICS, 0.5, 0.5)
    # The 2x2 block of pixels (2, 4)..(3, 5) becomes pixel (1, 2): its centre is (2.5, 4.5).
    ray = torch.linalg.inv(INTRINSICS[0]) @ torch.tensor([2.5, 4.5, 1], dtype=torch.float64)
    torch.testing.assert_close(half[0] @ ray, torch.tensor([1, 2, 1], dtype=torch.float64))


def test_projection_undoes_unprojection():
    depth = 1 + torch.rand(1, 1, 5, 7, dtype=torch.float64)
    points = unproject(depth, INTRINSICS)
    pixels, z = project(points, torch.eye(4, dtype=torch.float64)[None], INTRINSICS)
    v, u = torch.meshgrid(torch.arange(5.0), torch.arange(7.0), indexing='ij')
    torch.testing.assert_close(pixels[0], torch.stack([u, v], -1).view(-1, 2).double())
    torch.testing.assert_close(z, depth.flatten(1))


def test_a_point_by_hand():
    # 4 m ahead and 1 m right, seen from a camera that has moved 2 m forward: 2 m ahead.
    forward = torch.eye(4, dtype=torch.float64)[None].clone()
    forward[0, 2, 3] = -2
    pixels, z = project(torch.tensor([[[1.0], [0], [4]]], dtype=torch.float64), forward, INTRINSICS)
    torch.testing.assert_close(pixels[0, 0], torch.tensor([7.5, 2.5], dtype=torch.float64))
    assert z.item() == 2


def test_warp_by_whole_pixels():
    source = torch.arange(24, dtype=torch.float64).view(1, 1, 4, 6)
    depth = torch.full((1, 1, 4, 6), 8.0, dtype=torch.float64)
    shift = torch.eye(4, dtype=torch.float64)[None].clone()
    shift[0, 0, 3] = 2.0  # 2 m to the side at depth 8 and focal length 8: two pixels
    warped, valid = warp(source, depth, shift, INTRINSICS)
    torch.testing.assert_close(warped[..., :4], source[..., 2:])
    assert valid[..., :4].all() and not valid[..., 4:].any()


def test_points_behind_the_camera_are_never_seen():
    source = torch.rand(1, 3, 6, 8, dtype=torch.float64)
    depth = torch.full((1, 1, 6, 8), 1.0, dtype=torch.float64)
    back = torch.eye(4, dtype=torch.float64)[None].clone()
    back[0, 2, 3] = -5
    warped, valid = warp(source, depth, back, INTRINSICS)
    assert not valid.any() and warped.isfinite().all()


def test_warp_has_the_right_gradient():
    generator = torch.Generator().manual_seed(0)
    source = torch.rand(1, 1, 6, 8, dtype=torch.float64, generator=generator)
    depth = 4 + torch.rand(1, 1, 6, 8, dtype=torch.float64, generator=generator)
    pose = torch.tensor([[0.01, 0.02, -0.01, 0.13, 0.07, 0.11]], dtype=torch.float64)

    def synthesized(depth, pose):
        warped, valid = warp(source, depth, transform_from_pose(pose), INTRINSICS)
        return warped * valid

    assert torch.autograd.gradcheck(synthesized, (depth.requires_grad_(), pose.requires_grad_()))
