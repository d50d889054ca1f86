"""Each gradient derived by hand against autograd's, of the plain reference beside it."""

import pytest
import torch
import torch.nn.functional as F
from support.views import INTRINSICS, moved, random

from train.losses import view_synthesis
from train.losses.photometric import PhotometricLoss, plain_ssim_error
from train.losses.triplet import _PatchDistances, plain_patch_distances
from train.losses.view_synthesis import ViewSynthesis
from train.networks.attention import HEADS, CrossTaskAttention, _Attend, _attend
from train.networks.unet import ReflectConv, _DoubledConv, _padded, _ReflectConv

EXACT = {'rtol': 1e-9, 'atol': 1e-11}


def assert_agree(found, expected, leaves):
    """Two results and the gradients that a random loss of each has by the leaves."""
    torch.testing.assert_close(found, expected, **EXACT)
    factor = random(*found.shape, seed=9)
    gradients = [
        torch.autograd.grad((x * factor).sum(), leaves, retain_graph=True)
        for x in (found, expected)
    ]
    torch.testing.assert_close(*gradients, **EXACT)


def test_ssim():
    x, y = random(2, 3, 7, 9).requires_grad_(), random(2, 3, 7, 9, seed=1)
    assert_agree(PhotometricLoss(y).ssim_error(x), plain_ssim_error(x, y), [x])


@pytest.mark.parametrize('reduction', ['minimum', 'mean'])
@pytest.mark.parametrize('weighted', [False, True])
def test_view_synthesis_band_by_band(monkeypatch, reduction, weighted):
    monkeypatch.setattr(view_synthesis, 'BAND_PIXELS', 1)
    monkeypatch.setattr(view_synthesis, 'BAND_ROWS', 2)
    target, *sources = random(3, 1, 3, 6, 8)
    disparity = (0.1 + 0.1 * random(1, 1, 3, 4, seed=2)).requires_grad_()
    transforms = [moved(x, 0.1, 0.2).requires_grad_() for x in (0.4, -0.3)]
    weights = [random(1, 1, 6, 8, seed=k).requires_grad_() for k in (3, 4)] if weighted else None
    views = ViewSynthesis(
        target,
        sources,
        transforms,
        INTRINSICS,
        reduction=reduction,
        noise=torch.Generator().manual_seed(0),
    )
    leaves = [disparity, *transforms, *(weights or ())]
    assert_agree(views(disparity, weights).loss, views.plain(disparity, weights), leaves)


def test_triplet_distances():
    features = F.normalize(random(2, 4, 6, 7) - 0.5, dim=1).requires_grad_()
    found, expected = _PatchDistances.apply(features, 5), plain_patch_distances(features, 5)
    assert_agree(found, expected, [features])


def test_attention():
    torch.manual_seed(0)
    merged, *_ = CrossTaskAttention(6).double().merge()
    own, other = random(2, 2, 6, 4, 5).requires_grad_().unbind(0)
    merged = [x.detach().requires_grad_() for x in merged]
    found = _Attend.apply(own, other, *merged)
    expected, weights, _ = _attend(own, other, type(CrossTaskAttention(6).merge()[0])(*merged))
    assert weights.shape[1] == HEADS
    assert_agree(found, expected, [own, other, *merged])


@pytest.mark.parametrize('way', ['single', 'double', 'phases'])
@pytest.mark.parametrize('joined', [False, True])
def test_decoder_convolutions(way, joined):
    torch.manual_seed(0)
    double = way != 'single'
    layer = ReflectConv(3 + 2 * joined, 4).double()
    x = random(2, 3, 4, 5).requires_grad_()
    skip = random(2, 2, *((8, 10) if double else (4, 5)), seed=1).requires_grad_()
    skip = skip if joined else None
    if way == 'phases':
        found = _DoubledConv.apply(x, skip, layer.weight, layer.bias, True)
    else:
        found = _ReflectConv.apply(x, skip, layer.weight, layer.bias, double, True)
    expected = F.elu(F.conv2d(_padded(x, skip, double), layer.weight, layer.bias))
    leaves = [x, layer.weight, layer.bias, *([skip] if joined else [])]
    assert_agree(found, expected, leaves)
