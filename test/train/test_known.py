"""Known depth and motion as supervision: losses and networks."""

import numpy as np
import pytest
import torch
from support.known_sets import FOCAL, MATRIX

from train.geometry import transform_from_pose
from train.losses.depth_edges import depth_edges_loss
from train.losses.motion import motion_loss
from train.losses.points import in_units_of, judged_points
from train.losses.sky import sky_loss
from train.losses.true_depth import depth_loss
from train.networks.focal import focal_factor, pose_for_camera
from train.networks.perception import DepthRange, make_perception
from train.networks.pose import PoseNet, make_pose

# Losses


def test_depth_loss_is_zero_for_the_truth_and_without_any():
    depth = torch.rand(2, 8, 12) * 50 + 1
    assert depth_loss(1 / depth[:, None], depth) < 1e-6
    disparity = torch.full((2, 1, 8, 12), 0.1, requires_grad=True)
    loss = depth_loss(disparity, torch.zeros(2, 8, 12))
    loss.backward()
    assert loss == 0 and (disparity.grad == 0).all()


def test_an_outlier_pulls_less_than_a_good_point():
    disparity = torch.full((1, 1, 1, 2), 0.1, requires_grad=True)
    depth_loss(disparity, torch.tensor([[[11.0, 400.0]]])).backward()
    good, bad = disparity.grad.abs().flatten()
    assert 0 < bad < 0.15 * good


def test_points_of_many_outliers_still_find_the_median():
    torch.manual_seed(0)
    truth = torch.full((1, 1, 1000), 10.0)
    truth[..., :300] = 10 * torch.rand(300) ** 2 * 20 + 0.5  # three in ten say anything
    log_depth = torch.zeros(1, 1, 1, 1, requires_grad=True)
    optimizer = torch.optim.Adam([log_depth], 0.05)
    for _ in range(150):
        optimizer.zero_grad()
        depth_loss((-log_depth).exp().expand(1, 1, 1, 1000), truth).backward()
        optimizer.step()
    assert log_depth.exp().item() == pytest.approx(10, rel=0.05)


def test_edges_do_not_see_the_scale_but_blur():
    depth = torch.full((1, 16, 16), 20.0)
    depth[..., :8] = 5
    assert depth_edges_loss(1 / (3 * depth[:, None]), depth) < 1e-5
    blurred = torch.nn.functional.avg_pool2d(1 / depth[:, None], 5, 1, 2, count_include_pad=False)
    assert depth_edges_loss(blurred, depth) > 0.05
    assert depth_edges_loss(1 / depth[:, None], torch.zeros(1, 16, 16)) == 0


def test_the_sky_may_be_anywhere_far():
    sky = torch.ones(1, 4, 4, dtype=torch.bool)
    assert sky_loss(torch.full((1, 1, 4, 4), 1 / 100), sky, 80) == 0
    assert sky_loss(torch.full((1, 1, 4, 4), 1 / 8), sky, 80) == pytest.approx(np.log(10), 1e-4)
    assert sky_loss(torch.full((1, 1, 4, 4), 1 / 8), ~sky, 80) == 0


def test_motion_loss_counts_known_motion_only():
    truth = transform_from_pose(torch.tensor([[0, 0.02, 0, 0, 0, 1.0], [0, 0, 0, 0, 0, 0.5]]))
    found = transform_from_pose(torch.tensor([[0, 0.03, 0, 0, 0, 1.1], [1, 0, 0, 9, 9, 9]]))
    truth[1] = torch.nan
    found.requires_grad_()
    loss = motion_loss([found], truth[:, None])
    assert loss.item() == pytest.approx(0.1 + 20 * 0.01, rel=1e-2)
    loss.backward()
    assert found.grad.isfinite().all() and (found.grad[1] == 0).all()


def test_still_pairs_have_a_finite_gradient():
    found = torch.eye(4)[None].requires_grad_()
    motion_loss([found], torch.eye(4)[None, None]).backward()
    assert found.grad.isfinite().all()


def test_depth_and_motion_follow_the_focal_length():
    cameras = torch.tensor(np.stack([MATRIX, 2 * MATRIX, np.full((3, 3), np.nan)])).float()
    torch.testing.assert_close(focal_factor(cameras, FOCAL), torch.tensor([1.0, 2.0, 1.0]))
    pose = torch.tensor([[0.01, 0.02, 0.03, 1.0, 2.0, 3.0]]).repeat(3, 1)
    real = pose_for_camera(pose, cameras, FOCAL)
    torch.testing.assert_close(real[[0, 2]], pose[[0, 2]])
    torch.testing.assert_close(real[1], torch.tensor([0.005, 0.01, 0.03, 1.0, 2.0, 6.0]))


@pytest.mark.parametrize('motion', [[0, 0.002, 0, 0.3, 0, 0], [0.001, 0, 0.001, 0, 0.1, 0.4]])
def test_a_camera_of_another_focal_length_moves_the_same_pixels(motion):
    """Flow of the network's own camera, past depth as it sees it, is the real camera's flow."""
    own = torch.tensor([[FOCAL, 0, 0], [0, FOCAL, 0], [0, 0, 1]]).float()
    real = torch.tensor([[1.5 * FOCAL, 0, 0], [0, 2 * FOCAL, 0], [0, 0, 1]]).float()
    seen = torch.tensor([motion]).float()
    moved = transform_from_pose(pose_for_camera(seen, real[None], FOCAL))[0]
    pixel, depth = torch.tensor([12.0, 7.0, 1.0]), 20.0
    flows = []
    for camera, transform, far in (
        (own, transform_from_pose(seen)[0], depth),
        (real, moved, depth * focal_factor(real[None], FOCAL).item()),
    ):
        point = transform[:3, :3] @ (torch.linalg.inv(camera) @ pixel * far) + transform[:3, 3]
        flows.append((camera @ point / point[2] - pixel)[:2])
    torch.testing.assert_close(flows[0], flows[1], rtol=0.05, atol=0.02)


def test_points_of_unknown_unit_take_the_predictions():
    points = torch.zeros(2, 4, 4)
    points[:, 1:3, 1:3] = torch.tensor([[1.0, 2.0], [1.0, 2.0]])
    disparity = torch.full((2, 1, 4, 4), 0.1)
    scaled = in_units_of(disparity, {'points': points, 'relative': torch.tensor([True, False])})
    torch.testing.assert_close(scaled[1], points[1])
    assert scaled[0].max() in (10, 20) and (scaled[0] > 0).sum() == 4


def test_judged_points_are_scaled_by_the_median():
    points = torch.rand(1, 8, 8) * 10 + 1
    judged = judged_points(1 / (4 * points[:, None]), points)
    assert judged['points_abs_rel'][0] < 1e-5 and judged['points_delta1'][0] == 1
    assert judged_points(1 / points[:, None], torch.zeros(1, 8, 8)) == {}


# Networks


@pytest.mark.parametrize('logarithmic', [False, True])
def test_depth_range(logarithmic):
    known = DepthRange(0.3, 150.0, logarithmic)
    depth = 1 / known.disparity(torch.tensor([-100.0, 0.0, 100.0]))
    assert depth[0] == pytest.approx(150, rel=1e-4) and depth[2] == pytest.approx(0.3, rel=1e-4)
    if logarithmic:
        assert depth[1] == pytest.approx((0.3 * 150) ** 0.5, rel=1e-4)


def test_a_network_says_what_its_range_allows():
    net = make_perception('light', 'efficientnet_lite0', depth_range=DepthRange(1, 4, True)).eval()
    with torch.no_grad():
        depth = 1 / net(torch.rand(1, 3, 64, 96)).disparities[0]
    assert depth.min() >= 1 and depth.max() <= 4


def test_a_symmetric_pose_network_stands_still_and_goes_back():
    torch.manual_seed(0)
    net = make_pose('light', symmetric=True).eval()
    a, b = torch.rand(2, 2, 3, 64, 96)
    with torch.no_grad():
        assert (net(a, a) == 0).all()
        torch.testing.assert_close(net(a, b), -net(b, a))
        assert net(a, b).abs().max() > 0
    assert isinstance(net.net, PoseNet)


def test_bfloat16_on_a_processor_keeps_large_depthwise_convolutions_single():
    torch.manual_seed(0)
    net = make_perception('light', 'efficientnet_lite0').eval()
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        exact = net(image).disparities[0]
        with torch.autocast('cpu', torch.bfloat16):
            half = net(image).disparities[0]
    torch.testing.assert_close(half, exact, rtol=0.1, atol=0.1)
