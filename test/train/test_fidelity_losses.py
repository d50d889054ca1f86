"""The losses beside the papers' own public code, on the same inputs in float64.

Needs clones, which the environment names:
    git clone https://github.com/hyBlue/FSRE-Depth && export FSRE_DEPTH=$PWD/FSRE-Depth
    git clone https://github.com/ClementPinard/SfmLearner-Pytorch \
        && export SFMLEARNER_PYTORCH=$PWD/SfmLearner-Pytorch
``pytest -s`` prints the differences.
"""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from support.reference_code import load

from train.geometry import (
    Projection,
    invert_transform,
    transform_from_euler_pose,
    transform_from_pose,
)
from train.losses.explainability import explainability_loss
from train.losses.photometric import PhotometricLoss
from train.losses.semantic import cross_entropy
from train.losses.smoothness import edge_aware_smoothness, second_order_smoothness
from train.losses.triplet import boundary_anchors, semantic_triplet_loss
from train.losses.view_synthesis import ViewSynthesis

BATCH, HEIGHT, WIDTH = 2, 48, 96
SCALES = (0, 1, 2, 3)


@pytest.fixture
def fsre(monkeypatch, double):
    """FSRE-Depth's loss functions, bound to what they need of its trainer."""
    trainer, utils = load(
        'FSRE_DEPTH', 'hyBlue/FSRE-Depth', 'trainer_parallel', 'utils.depth_utils'
    )
    # They move their noise to a GPU by name.
    monkeypatch.setattr(torch.Tensor, 'cuda', lambda self, *_, **__: self)
    holder = SimpleNamespace(
        utils=utils,
        ssim=utils.SSIM(),
        project=utils.Project3D(BATCH, HEIGHT, WIDTH).double(),
        backproject=utils.BackprojectDepth(BATCH, HEIGHT, WIDTH).double(),
        opt=SimpleNamespace(
            scales=SCALES,
            frame_ids=(0, -1, 1),
            height=HEIGHT,
            width=WIDTH,
            sgt_layers=[3, 2, 1],
            sgt_kernel_size=[5, 5, 5],
            sgt_margin=0.3,
        ),
    )
    for name in (
        'compute_affinity',
        'compute_sgt_loss',
        'compute_reprojection',
        'compute_semantic_distil',
        'compute_smoothness',
        'reprojection_loss',
    ):
        setattr(holder, name, getattr(trainer.TrainerParallel, name).__get__(holder))
    return holder


@pytest.fixture
def sfmlearner(double):
    losses, warp = load(
        'SFMLEARNER_PYTORCH', 'ClementPinard/SfmLearner-Pytorch', 'loss_functions', 'inverse_warp'
    )
    return SimpleNamespace(losses=losses, warp=warp)


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def scene(double):
    """A target, two sources, disparities at four scales, poses and cameras, as in training."""
    torch.manual_seed(0)
    texture = F.interpolate(torch.rand(BATCH, 3, 12, 28), (HEIGHT, WIDTH + 8), mode='bicubic')
    texture = (texture + 0.05 * torch.rand_like(texture)).clamp(0, 1)
    return SimpleNamespace(
        target=texture[..., 4:-4],
        sources=[texture[..., 2:-6], texture[..., 6:-2]],
        disparities=[
            (0.05 + 0.1 * torch.rand(BATCH, 1, HEIGHT >> s, WIDTH >> s)).requires_grad_()
            for s in SCALES
        ],
        poses=[(0.05 * torch.randn(BATCH, 6)).requires_grad_() for _ in range(2)],
        intrinsics=torch.tensor(
            [[[0.58 * WIDTH, 0, 0.5 * WIDTH], [0, 1.92 * HEIGHT, 0.5 * HEIGHT], [0, 0, 1]]]
        ).repeat(BATCH, 1, 1),
    )


def assert_same(name, found, expected, inputs=()):
    """Values, and gradients by ``inputs``, differ by less than 1e-4 of the largest."""
    pairs = [(found, expected)]
    if inputs:
        pairs += zip(
            *(torch.autograd.grad(x.sum(), inputs, retain_graph=True) for x in (found, expected)),
            strict=True,
        )
    differences = [((a - b).abs().max() / b.abs().max()).item() for a, b in pairs]
    print(
        f'\n{name}: value {differences[0]:.1e}'
        + (f', gradient {max(differences[1:]):.1e}' if inputs else '')
    )
    assert max(differences) < 1e-4


def test_fsre_rigid_transforms(fsre, scene):
    pose = scene.poses[0]
    for invert in (False, True):
        ours = transform_from_pose(pose)
        assert_same(
            f'axis-angle pose, invert={invert}',
            invert_transform(ours) if invert else ours,
            fsre.utils.transformation_from_parameters(pose[:, None, :3], pose[:, None, 3:], invert),
            [pose],
        )


def four_by_four(intrinsics):
    result = torch.eye(4).repeat(len(intrinsics), 1, 1)
    result[:, :3, :3] = intrinsics
    return result


def fsre_grid(fsre, disparity, intrinsics, transform):
    camera = four_by_four(intrinsics)
    points = fsre.backproject(1 / disparity, torch.linalg.inv(camera))
    return fsre.project(points, camera, transform)


def test_fsre_projection(fsre, scene):
    disparity, transform = scene.disparities[0], transform_from_pose(scene.poses[0])
    grid, nearness, _ = Projection(transform, scene.intrinsics, HEIGHT, WIDTH)(disparity)
    expected, depth = fsre_grid(fsre, disparity, scene.intrinsics, transform)
    assert_same('Project3D(BackprojectDepth)', grid, expected, [disparity, scene.poses[0]])
    assert_same('depth in the source view', nearness / disparity, depth)


def test_fsre_ssim(fsre, scene):
    source = scene.sources[0].clone().requires_grad_()
    assert_same(
        'SSIM',
        PhotometricLoss(scene.target).ssim_error(source),
        fsre.ssim(source, scene.target),
        [source],
    )
    assert_same(
        '0.85 SSIM + 0.15 L1',
        PhotometricLoss(scene.target)(source),
        fsre.reprojection_loss(source, scene.target),
        [source],
    )


def test_fsre_photometric_term(fsre, scene, monkeypatch):
    monkeypatch.setattr(torch, 'randn', lambda shape, **_: torch.zeros(shape))
    transforms = [transform_from_pose(pose) for pose in scene.poses]
    views = ViewSynthesis(scene.target, scene.sources, transforms, scene.intrinsics, validity=False)
    found = sum(views(d).loss / 2**s for s, d in enumerate(scene.disparities))
    inputs = {
        ('color', 0, 0): scene.target,
        ('color', -1, 0): scene.sources[0],
        ('color', 1, 0): scene.sources[1],
    }
    outputs = {}
    for s, disparity in enumerate(scene.disparities):
        disparity = F.interpolate(disparity, (HEIGHT, WIDTH), mode='bilinear') if s else disparity
        for frame, transform in zip((-1, 1), transforms, strict=True):
            outputs['sample', frame, s], depth = fsre_grid(
                fsre, disparity, scene.intrinsics, transform
            )
            assert (depth > 0).all()  # points behind the camera count there, not here
    assert_same(
        'photometric term of four scales',
        found,
        fsre.compute_reprojection(inputs, outputs),
        [*scene.disparities, *scene.poses],
    )


def test_fsre_smoothness(fsre, scene):
    images = [F.interpolate(scene.target, d.shape[2:], mode='area') for d in scene.disparities]
    found = sum(
        edge_aware_smoothness(d, image) / 2**s
        for s, (d, image) in enumerate(zip(scene.disparities, images, strict=True))
    )
    expected = fsre.compute_smoothness(
        {('color', 0, s): image for s, image in enumerate(images)},
        {('disp', s): d for s, d in enumerate(scene.disparities)},
    )
    assert_same('edge-aware smoothness', found, expected, scene.disparities)


def semantics():
    """Labels (B, H, W) of big patches, as of segmented streets."""
    patches = torch.randint(0, 19, (BATCH, 1, HEIGHT // 12, WIDTH // 12)).double()
    return F.interpolate(patches, (HEIGHT, WIDTH))[:, 0].long()


def test_fsre_triplets(fsre, scene):
    labels = semantics()
    features = [
        torch.randn(BATCH, c, HEIGHT >> s, WIDTH >> s).requires_grad_()
        for s, c in ((1, 32), (2, 64), (3, 128))
    ]
    outputs = {('d_feature', s): f for s, f in zip((1, 2, 3), features, strict=True)}
    found, _ = semantic_triplet_loss(features, labels, border='paper')
    expected = fsre.compute_sgt_loss({('seg', 0, 0): labels[:, None].double()}, outputs)
    assert_same('semantics-guided triplets', found, expected, features)
    nearest = F.interpolate(labels[:, None].double(), (HEIGHT // 2, WIDTH // 2))[:, 0]
    assert (boundary_anchors(nearest, border='paper') == outputs['boundary', 1][:, 0]).all()
    # The flaw that border='valid' mends: one class alone has boundaries all the same.
    single = torch.zeros_like(labels)
    assert fsre.compute_sgt_loss({('seg', 0, 0): single[:, None].double()}, outputs) > 0.01
    assert semantic_triplet_loss(features, single)[0] == 0


def test_fsre_cross_entropy(fsre, scene):
    labels, logits = semantics(), torch.randn(BATCH, 19, HEIGHT, WIDTH).requires_grad_()
    assert_same(
        'cross-entropy',
        cross_entropy(logits, labels),
        fsre.compute_semantic_distil({('seg', 0, 0): labels[:, None]}, {('seg_logits', 0): logits}),
        [logits],
    )


def test_sfmlearner_euler_poses(sfmlearner, scene):
    pose = scene.poses[0]
    assert_same(
        'Euler pose',
        transform_from_euler_pose(pose)[:, :3],
        sfmlearner.warp.pose_vec2mat(pose),
        [pose],
    )


@pytest.mark.parametrize('explained', [False, True])
@pytest.mark.parametrize('s', [0, 1])
def test_sfmlearner_photometric_term(sfmlearner, scene, explained, s):
    disparity = scene.disparities[s]
    size = disparity.shape[2:]
    target, *sources = (F.interpolate(x, size, mode='area') for x in (scene.target, *scene.sources))
    # The principal point moves by half a pixel less than ours: see scale_intrinsics.
    intrinsics = scene.intrinsics / torch.tensor([[2**s], [2**s], [1]])
    mask = torch.rand(BATCH, 2, *size).requires_grad_()
    views = ViewSynthesis(
        target,
        sources,
        [transform_from_euler_pose(p) for p in scene.poses],
        intrinsics,
        ssim_weight=0,
        reduction='mean',
        automask=False,
    )
    found = views(disparity, mask.split(1, 1) if explained else None)
    # Theirs divides by all pixels, ours by those in view.
    share = sum(v.double().mean() for v in found.valid)
    expected, _, _ = sfmlearner.losses.photometric_reconstruction_loss(
        scene.target,
        scene.sources,
        scene.intrinsics,
        1 / disparity,
        mask if explained else None,
        torch.stack(scene.poses, 1),
    )
    inputs = [disparity, *scene.poses] + ([mask] if explained else [])
    assert_same(
        f'L1 view synthesis at scale {s}, explainability={explained}',
        found.loss * share,
        expected,
        inputs,
    )


def test_sfmlearner_smoothness(sfmlearner, scene):
    disparity = scene.disparities[0]
    assert_same(
        'second-order smoothness',
        second_order_smoothness(disparity),
        sfmlearner.losses.smooth_loss(disparity),
        [disparity],
    )


def test_sfmlearner_explainability(sfmlearner):
    odds = torch.randn(BATCH, 2, HEIGHT, WIDTH).requires_grad_()
    # Its sigmoid of one channel is the softmax of two, the other 0.
    pairs = torch.stack([torch.zeros_like(odds), odds], 2).flatten(1, 2)
    assert_same(
        'explainability',
        explainability_loss(pairs),
        sfmlearner.losses.explainability_loss(odds.sigmoid()),
        [odds],
    )
