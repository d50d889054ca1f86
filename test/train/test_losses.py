"""The losses, against their equations worked out by hand and against loops in float64."""

import math

import numpy as np
import pytest
import torch
import torch.distributed
from support.views import INTRINSICS, moved, random

from train.geometry import invert_transform, transform_from_pose
from train.losses.camera_height import camera_height, camera_height_loss
from train.losses.consistency import geometry_consistency
from train.losses.explainability import explainability_loss, explainability_weights
from train.losses.reduction import masked_mean
from train.losses.semantic import cross_entropy
from train.losses.smoothness import edge_aware_smoothness, second_order_smoothness
from train.losses.triplet import boundary_anchors, semantic_triplet_loss
from train.losses.velocity import velocity_loss
from train.losses.view_synthesis import ViewSynthesis

# Smoothness


def test_smoothness_by_hand():
    disparity = torch.tensor([[[[1.0, 3.0], [1.0, 3.0]]]])  # mean 2: normalised 0.5 and 1.5
    flat = torch.zeros(1, 3, 2, 2)
    torch.testing.assert_close(edge_aware_smoothness(disparity, flat), torch.tensor(1.0))
    edge = flat.clone()
    edge[..., 1] = 1.0  # an image edge of height 1 where the disparity jumps
    torch.testing.assert_close(edge_aware_smoothness(disparity, edge), torch.tensor(math.exp(-1)))
    torch.testing.assert_close(  # scale does not matter
        edge_aware_smoothness(7 * disparity, edge), torch.tensor(math.exp(-1))
    )


def test_planes_are_smooth_to_second_order():
    v, u = torch.meshgrid(torch.arange(5.0), torch.arange(6.0), indexing='ij')
    plane = (0.25 * u - 0.5 * v + 4)[None, None]
    assert second_order_smoothness(plane) == 0
    # A parabola bends by 2 everywhere along u, u v by 1 in both mixed derivatives.
    torch.testing.assert_close(second_order_smoothness(plane + u**2), torch.tensor(2.0))
    torch.testing.assert_close(second_order_smoothness(plane + v**2), torch.tensor(2.0))
    torch.testing.assert_close(second_order_smoothness(plane + u * v), torch.tensor(2.0))


def test_smoothness_has_the_right_gradient():
    disparity, image = random(1, 1, 4, 5).requires_grad_(), random(1, 3, 4, 5, seed=1)
    assert torch.autograd.gradcheck(lambda d: edge_aware_smoothness(d, image), disparity)
    assert torch.autograd.gradcheck(second_order_smoothness, disparity)


# Semantics-guided triplets


def two_classes():
    labels = torch.zeros(1, 7, 7, dtype=torch.long)
    labels[:, :, 4:] = 5
    return labels


def triplets_by_loops(feature, labels, border, margin=0.3, patch=5, threshold=4):
    """The loss of one level and its anchors, as the paper words it."""
    _, height, width = feature.shape
    unit = feature / feature.norm(dim=0)
    reach = patch // 2
    terms, anchors = [], []
    for y in range(height):
        for x in range(width):
            positive, negative = [torch.zeros((), dtype=feature.dtype)], []
            inside = True
            for dy in range(-reach, reach + 1):
                for dx in range(-reach, reach + 1):
                    if (dy, dx) == (0, 0):
                        continue
                    if not (0 <= y + dy < height and 0 <= x + dx < width):
                        inside = False
                        negative.append(torch.tensor(math.sqrt(2)))
                        continue
                    cosine = unit[:, y, x] @ unit[:, y + dy, x + dx]
                    distance = (2 - 2 * cosine).clamp(min=1e-9).sqrt()
                    other = labels[y + dy, x + dx]
                    if border == 'valid' and other == 255:
                        continue
                    (positive if other == labels[y, x] else negative).append(distance)
            if border == 'valid':
                chosen = (
                    inside
                    and labels[y, x] != 255
                    and len(positive) > threshold
                    and len(negative) > threshold
                )
            else:
                chosen = len(positive) >= threshold and len(negative) >= threshold
            if chosen:
                anchors.append((y, x))
                terms.append(
                    (torch.stack(positive).mean() - torch.stack(negative).mean() + margin).clamp(
                        min=0
                    )
                )
    return torch.stack(terms).mean(), anchors


@pytest.mark.parametrize('border', ['valid', 'paper'])
@pytest.mark.parametrize('unknown', [False, True])
def test_triplets_equal_loops_over_pixels(border, unknown):
    labels, feature = two_classes(), random(1, 4, 7, 7) - 0.3
    if unknown:
        labels[:, 1:3, 1:4] = 255
    loss, count = semantic_triplet_loss([feature], labels, border=border)
    expected, anchors = triplets_by_loops(feature[0], labels[0], border)
    torch.testing.assert_close(loss, expected)
    mask = boundary_anchors(labels, border=border)[0]
    assert sorted(anchors) == [tuple(p) for p in mask.nonzero().tolist()] and count == len(anchors)


def test_anchors_by_hand():
    # Columns 2 to 5 have both classes in reach. Of the patches inside the image (rows and
    # columns 2 to 4), column 2 has one column of the other class: 5 > 4 pixels.
    expected = torch.zeros(1, 7, 7, dtype=torch.bool)
    expected[:, 2:5, 2:5] = True
    assert (boundary_anchors(two_classes()) == expected).all()
    assert not boundary_anchors(two_classes(), threshold=5)[:, :, 2].any()


def test_exactly_threshold_pixels_are_enough_for_the_papers_code_alone():
    labels = torch.zeros(1, 9, 9, dtype=torch.long)
    labels[:, 2, 2:6] = 5  # in the patch around (4, 4), four pixels of another class
    assert boundary_anchors(labels, border='paper')[0, 4, 4]
    assert not boundary_anchors(labels)[0, 4, 4]


def test_one_class_has_no_boundary_not_even_at_the_images_border():
    feature = (random(1, 4, 12, 12) - 0.5).requires_grad_()
    loss, count = semantic_triplet_loss([feature], torch.zeros(1, 12, 12, dtype=torch.long))
    loss.backward()
    assert loss == 0 and count == 0 and (feature.grad == 0).all()
    paper, count = semantic_triplet_loss(
        [feature], torch.zeros(1, 12, 12, dtype=torch.long), border='paper'
    )
    assert paper > 0 and count > 0


def test_separated_features_lose_nothing_and_mixed_ones_the_margin():
    labels = two_classes()
    along = torch.where(labels == 0, 1.0, 0.0)
    loss, _ = semantic_triplet_loss([torch.stack([along, 1 - along], 1)], labels)
    assert loss == 0  # sqrt(2) apart
    loss, _ = semantic_triplet_loss([torch.ones(1, 3, 7, 7)], labels)
    torch.testing.assert_close(loss, torch.tensor(0.3), atol=1e-4, rtol=0)


def test_levels_weigh_by_their_resolution():
    labels = two_classes().repeat_interleave(4, 1).repeat_interleave(4, 2)
    feature = random(1, 4, 7, 7)
    alone, _ = semantic_triplet_loss([feature], two_classes())
    coarse, _ = semantic_triplet_loss([feature], labels)
    torch.testing.assert_close(coarse, alone / 4)
    both, count = semantic_triplet_loss([feature, feature], labels)
    torch.testing.assert_close(both, alone / 2)
    assert count == 2 * boundary_anchors(two_classes()).sum()


@pytest.mark.parametrize('border', ['valid', 'paper'])
def test_triplets_have_the_right_gradient(border):
    labels = two_classes()
    labels[:, 0, :3] = 255
    assert torch.autograd.gradcheck(
        lambda f: semantic_triplet_loss([f], labels, border=border)[0],
        (random(1, 3, 7, 7, seed=2) - 0.5).requires_grad_(),
    )


@pytest.mark.parametrize('options', [{'patch': 4}, {'border': 'zero'}])
def test_triplet_options_are_checked(options):
    with pytest.raises(ValueError, match='must be odd'):
        boundary_anchors(two_classes(), **options)


# Explainability


def test_undecided_explainability_costs_ln_2():
    logits = torch.zeros(1, 4, 3, 3)
    torch.testing.assert_close(explainability_loss(logits), torch.tensor(math.log(2)))
    weights = explainability_weights(logits)
    assert len(weights) == 2 and weights[0].shape == (1, 1, 3, 3) and (weights[1] == 0.5).all()


def test_explainability_is_the_pairwise_softmax():
    logits = (4 * random(2, 6, 3, 3) - 2).requires_grad_()
    for source, weight in enumerate(explainability_weights(logits)):
        pair = logits[:, 2 * source : 2 * source + 2].softmax(1)
        torch.testing.assert_close(weight, pair[:, 1:])
    expected = torch.stack([-w.log().mean() for w in explainability_weights(logits)]).mean()
    torch.testing.assert_close(explainability_loss(logits), expected)
    assert torch.autograd.gradcheck(explainability_loss, logits)


# Scale


def test_a_consistent_pair_loses_nothing():
    # A wall 8 m ahead, and the same wall 6 m ahead of a camera 2 m further on.
    far, near = (torch.full((1, 1, 6, 8), 1 / d, dtype=torch.float64) for d in (8, 6))
    loss, weight = geometry_consistency(far, near, moved(z=-2.0), INTRINSICS)
    torch.testing.assert_close(loss, torch.zeros_like(loss))
    seen = weight > 0
    # At 6 m the camera sees 6/8 of what it saw: columns 1 to 6 of 0.875..6.125.
    assert seen[..., 1:5, 1:7].all() and not seen[..., 0].any()
    torch.testing.assert_close(weight[seen], torch.ones_like(weight[seen]))
    loss, weight = geometry_consistency(far, 2 * near, moved(z=-2.0), INTRINSICS)
    torch.testing.assert_close(loss, torch.tensor((6 - 3) / (6 + 3)).double())
    torch.testing.assert_close(weight[seen], torch.full_like(weight[seen], 2 / 3))


def test_consistency_has_the_right_gradient():
    disparity, source = (0.1 + 0.02 * random(2, 1, 1, 6, 8)).unbind(0)
    pose = torch.tensor([[0.01, 0.02, -0.01, 0.13, 0.07, 0.11]], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda d, s, p: geometry_consistency(d, s, transform_from_pose(p), INTRINSICS),
        (disparity.requires_grad_(), source.requires_grad_(), pose.requires_grad_()),
    )


def test_both_directions_agree_on_a_consistent_scene():
    far, near = (torch.full((1, 1, 6, 8), 1 / d, dtype=torch.float64) for d in (8, 6))
    back, _ = geometry_consistency(near, far, invert_transform(moved(z=-2.0)), INTRINSICS)
    torch.testing.assert_close(back, torch.zeros_like(back))


def test_velocity_by_hand():
    transforms = [moved(3.0, 0.0, 4.0), moved(0.0, 0.0, 1.0)]
    loss = velocity_loss(transforms, torch.tensor([[4.0, 1.5]]))
    torch.testing.assert_close(loss, torch.tensor((1 + 0.5) / 2).double())


def test_unknown_distances_do_not_count():
    standing = moved().requires_grad_()
    loss = velocity_loss([standing, moved(0.0, 0.0, 2.0)], torch.tensor([[math.nan, 1.5]]))
    torch.testing.assert_close(loss, torch.tensor(0.5).double())
    loss = velocity_loss([standing], torch.tensor([[math.nan]]))
    loss.backward()
    assert loss == 0 and (standing.grad == 0).all()


def road_scene(height=1.6, pitch=0.05):
    """Disparity of a road under a camera that looks slightly down, and its intrinsics."""
    rows, columns = 48, 64
    intrinsics = torch.tensor([[50.0, 0, 31.5], [0, 50.0, 23.5], [0, 0, 1]]).double()
    v, u = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing='ij')
    rays = (
        torch.linalg.inv(intrinsics) @ torch.stack([u, v, torch.ones_like(u)]).double().flatten(1)
    ).view(3, rows, columns)
    disparity = (math.cos(pitch) * rays[1] + math.sin(pitch)) / height
    road = disparity > 0.02
    return disparity.clamp(min=0.01)[None, None], road[None], intrinsics[None]


def test_camera_height_over_an_exact_plane():
    disparity, road, intrinsics = road_scene()
    torch.testing.assert_close(
        camera_height(disparity, road, intrinsics), torch.tensor([1.6]).double()
    )
    torch.testing.assert_close(  # half the scale, half the height
        camera_height(2 * disparity, road, intrinsics), torch.tensor([0.8]).double()
    )
    loss = camera_height_loss(disparity, road, intrinsics, torch.tensor([2.0]).double())
    torch.testing.assert_close(loss, torch.tensor(0.2).double())


def test_camera_height_shrugs_off_cars_taken_for_road():
    disparity, road, intrinsics = road_scene()
    disparity[..., 34:40, 20:28] *= 1.5
    found = camera_height(disparity, road, intrinsics)
    assert abs(found.item() - 1.6) < 0.08


def test_camera_height_has_the_right_gradient():
    disparity, road, intrinsics = road_scene()

    def height(scale, tilt):
        slope = torch.linspace(-1, 1, 64).double()
        return camera_height(scale * disparity + tilt * slope, road, intrinsics)

    assert torch.autograd.gradcheck(
        height, tuple(torch.tensor(x).double().requires_grad_() for x in (1.1, 0.0))
    )


def test_images_without_road_or_height_do_not_count():
    disparity, road, intrinsics = (x.repeat(4, *[1] * (x.ndim - 1)) for x in road_scene())
    road[1] = False
    disparity[2] = disparity[2].flip(-2)  # a ceiling
    disparity.requires_grad_()
    loss = camera_height_loss(
        disparity, road, intrinsics, torch.tensor([2.0, 2.0, 2.0, math.nan]).double()
    )
    loss.backward()
    torch.testing.assert_close(loss, torch.tensor(0.2).double())
    assert disparity.grad.isfinite().all()
    assert [bool((g != 0).any()) for g in disparity.grad] == [True, False, False, False]


# Cross-entropy


def test_cross_entropy_over_labelled_pixels():
    logits = torch.zeros(1, 4, 2, 2, requires_grad=True)
    labels = torch.tensor([[[0, 3], [255, 255]]])
    torch.testing.assert_close(cross_entropy(logits, labels), torch.tensor(math.log(4)))
    logits = torch.zeros(1, 4, 2, 2)
    logits[0, 0, 0, 0], logits[0, 1, 1, 1] = 2.0, 100.0  # the latter on an unknown pixel
    torch.testing.assert_close(
        cross_entropy(logits, labels),
        torch.tensor((math.log(math.exp(2) + 3) - 2 + math.log(4)) / 2),
    )


def test_cross_entropy_without_labels_is_a_differentiable_zero():
    logits = torch.rand(1, 4, 2, 2, requires_grad=True)
    loss = cross_entropy(logits, torch.full((1, 4, 4), 255))
    loss.backward()
    assert loss == 0 and (logits.grad == 0).all()


def test_labels_of_another_size_are_the_nearest():
    labels = torch.tensor([[[0, 1], [2, 3]]])
    logits = random(1, 4, 2, 2)
    torch.testing.assert_close(
        cross_entropy(logits, labels.repeat_interleave(3, 1).repeat_interleave(3, 2)),
        cross_entropy(logits, labels),
    )


# Means over pixels, on one process and on several


def test_masked_mean_by_hand():
    values = torch.tensor([1.0, math.nan, 3.0, math.inf], requires_grad=True)
    mean = masked_mean(values, torch.tensor([True, False, True, False]))
    mean.backward()
    assert mean == 2 and values.grad.tolist() == [0.5, 0, 0.5, 0]


def test_masked_mean_of_nothing():
    values, nothing = torch.rand(3, requires_grad=True), torch.zeros(3, dtype=torch.bool)
    with pytest.raises(ValueError, match='no valid pixel'):
        masked_mean(values, nothing)
    mean = masked_mean(values, nothing, empty='zero')
    mean.backward()
    assert mean == 0 and (values.grad == 0).all()


def batch_gradient(rows):
    """Gradient of one shared weight, of all losses with masks, over some rows of a batch."""
    labels = torch.zeros(2, 8, 8, dtype=torch.long)
    labels[0, :, 4:] = 5
    labels[1, :5, :3] = 255  # the second sample has fewer of everything
    labels[1, 6:] = 7
    target, source = random(2, 2, 3, 8, 8, seed=20)
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    disparity = weight * (0.1 + 0.05 * random(2, 1, 8, 8, seed=21))[rows]
    transform = torch.cat([moved(x=1.0), moved(x=5.0)])[rows]
    views = ViewSynthesis(
        target[rows],
        [source[rows]],
        [transform],
        INTRINSICS.expand(2, 3, 3)[rows],
        automask=False,
        keep=(labels != 255)[:, None][rows],
    )
    features = weight**2 + random(2, 3, 8, 8, seed=22)[rows]
    loss = (
        views(disparity).loss
        + semantic_triplet_loss([features], labels[rows])[0]
        + cross_entropy(weight * random(2, 8, 8, 8, seed=23)[rows], labels[rows])
        + velocity_loss([weight * transform], torch.tensor([[3.0], [math.nan]])[rows])
    )
    return torch.autograd.grad(loss, weight)[0]


def distributed_gradient(rank, address, results):
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', f'file://{address}', rank=rank, world_size=2)
    gradient = batch_gradient(slice(rank, rank + 1))
    torch.distributed.all_reduce(gradient)  # as DistributedDataParallel does, then averages
    if rank == 0:
        np.save(results, (gradient / 2).numpy())
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one_with_twice_the_batch(tmp_path):
    torch.multiprocessing.spawn(
        distributed_gradient, (tmp_path / 'address', tmp_path / 'gradient.npy'), nprocs=2
    )
    np.testing.assert_allclose(
        np.load(tmp_path / 'gradient.npy'), batch_gradient(slice(0, 2)), rtol=1e-12
    )
