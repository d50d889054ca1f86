"""Cross-task attention."""

import math

import pytest
import torch
from support.networks import HEIGHT, WIDTH, image, trained
from torch import nn
from torch.func import functional_call

from train.networks.attention import CrossTaskAttention, FusedAttention
from train.networks.perception import (
    make_perception,
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# Attention


def hand_made():
    """Attention on the first of four channels, whose output is what it attends to.

    Head h = 0..3 makes of the other task's y the query (h y, 0, ...), of the own x the key
    (x, 0, ...) and the value (h x, 1, 0, ...), of which the projection is h x + 2.
    """
    net = CrossTaskAttention(4).eval()
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    heads = torch.arange(4.0)
    net.query.weight.data.view(4, 8, 4)[:, 0, 0] = heads
    net.key.weight.data.view(4, 8, 4)[:, 0, 0] = 1
    net.value.weight.data.view(4, 8, 4)[:, 0, 0] = heads
    net.value.bias.data.view(4, 8)[:, 1] = 1
    net.project.weight.data[0, :2, 0, 0] = torch.tensor([1.0, 2.0])
    net.norm.eps = 0
    nn.init.ones_(net.norm.weight)
    net.fuse.weight.data[0, 4, 1, 1] = 1
    net.out.weight.data[0, 0] = 1
    return net


# The first size is attended to by embeddings, the second by merged matrices.
@pytest.mark.parametrize('width', [2, 4])
def test_attention_by_hand(width, monkeypatch):
    calls = []
    monkeypatch.setattr(
        CrossTaskAttention,
        '_embed',
        lambda *args, embed=CrossTaskAttention._embed: calls.append(args) or embed(*args),
    )
    own, other = torch.zeros(2, 1, 4, 2, width)
    # A pixel attends to itself alone.
    pixels = {(0, 0): (0.5, -1.0), (1, 1): (2.0, 3.0)}
    for (v, u), (x, y) in pixels.items():
        own[0, 0, v, u], other[0, 0, v, u] = x, y
    net = hand_made()
    for module in (net, FusedAttention(net)):
        found = module(own, other)
        for (v, u), (x, y) in pixels.items():
            scores = [math.exp(h * x * y / math.sqrt(4 * 8)) for h in range(4)]
            expected = sum(s * (h * x + 2) for h, s in enumerate(scores)) / sum(scores)
            assert found[0, 0, v, u].item() == pytest.approx(expected, rel=1e-6)
    assert len(calls) == (width == 2)


def pair(channels, *size):
    return [
        torch.randn(2, channels, *size, dtype=torch.float64, requires_grad=True) for _ in range(2)
    ]


def test_merged_matrices_are_exact_in_value_and_gradient():
    net = CrossTaskAttention(3).double()
    own, other = pair(3, 4, 5)
    target = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    learning = [
        own,
        other,
        *net.query.parameters(),
        *net.key.parameters(),
        *net.value.parameters(),
        *net.project.parameters(),
    ]
    results = [
        (x, *torch.autograd.grad((x * target).sum(), learning))
        for x in (net._merged(own, other), net._embed(own, other))
    ]
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize('channels', [2, 4], ids=['merged', 'embedded'])
@pytest.mark.parametrize('training', [True, False])
def test_gradients_of_attention(channels, training):
    net = trained(CrossTaskAttention(channels)).double().train(training)
    inputs = [x.detach()[:1].requires_grad_() for x in pair(channels, 2, 2)]
    names = [name for name, _ in net.named_parameters()]

    def function(own, other, *parameters):
        return functional_call(net, dict(zip(names, parameters, strict=True)), (own, other))

    assert torch.autograd.gradcheck(function, (*inputs, *net.parameters()))


def test_gradients_of_fused_attention():
    net = FusedAttention(trained(CrossTaskAttention(2)).double())
    assert torch.autograd.gradcheck(net, pair(2, 3, 3))


@pytest.mark.parametrize('channels', [1, 5, 64])
def test_fused_attention_is_exact(channels):
    net, inputs = trained(CrossTaskAttention(channels)).double(), pair(channels, 6, 7)
    torch.testing.assert_close(FusedAttention(net)(*inputs), net(*inputs), rtol=1e-10, atol=1e-12)


def test_merging_is_exact_under_autocast():
    net = CrossTaskAttention(8)
    with torch.autocast('cpu', torch.bfloat16):
        merged, value, _ = net.merge()
    assert value.dtype == torch.float32 and all(x.dtype == torch.float32 for x in merged)


def test_both_tasks_read_features_from_before_attention():
    net = make_perception('fsre', attention=True).eval()
    seen = {}
    for name in ('refine_depth', 'refine_semantics'):
        for i, module in enumerate(getattr(net, name)):
            module.register_forward_pre_hook(
                lambda _, inputs, key=(name, i): seen.__setitem__(key, inputs)
            )
    with torch.no_grad():
        net(image())
    for i in range(3):
        (depth, semantic), (own, other) = seen['refine_depth', i], seen['refine_semantics', i]
        assert depth is other and semantic is own
        assert depth.shape == (1, 256 >> i, HEIGHT >> (4 - i), WIDTH >> (4 - i))
