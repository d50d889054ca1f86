"""What networks keep for the backward pass: less than plain ones do, for the same results."""

import copy
import gc

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from train.networks.attention import HEADS, CrossTaskAttention
from train.networks.encoder import TimmEncoder

pytestmark = pytest.mark.slow  # encoders of their full size learn

MODELS = ('resnet18', 'resnet26d', 'resnet50', 'mobilenetv3_small_100')
SIZE = 32, 64


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def encoder(name='resnet18', in_channels=3):
    """Whose batch norms are not as new."""
    net = TimmEncoder(name, '', in_channels).to(memory_format=torch.channels_last)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return net


def plain(net):
    """A copy that autograd treats as it does any network."""
    net = copy.deepcopy(net)
    net.forward = lambda image: net.net((image - net.mean) / net.std)
    return net


def outcomes(net, image):
    """Features, gradients by input and parameters, and buffers, after two steps."""
    image = image.clone().requires_grad_()
    learning = [image, *(p for p in net.parameters() if p.requires_grad)]
    for _ in range(2):
        features = net(image)
        loss = sum(x.float().square().mean() for x in features)
        gradients = torch.autograd.grad(loss, learning)
    return [*features, *gradients, *net.buffers()]


def assert_same(net, image, **tolerance):
    found, expected = outcomes(copy.deepcopy(net), image), outcomes(plain(net), image)
    torch.testing.assert_close(found, expected, **tolerance)


EXACT = {'rtol': 1e-12, 'atol': 1e-12}


# Encoders


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('name', MODELS)
def test_encoders_learn_as_plain_ones(name, training):
    net = encoder(name).double().train(training)
    assert_same(net, torch.rand(2, 3, *SIZE, dtype=torch.float64), **EXACT)


@pytest.mark.parametrize('memory_format', [torch.channels_last, torch.contiguous_format])
def test_not_even_the_last_bit_differs(memory_format):
    net = encoder(in_channels=6).to(memory_format=memory_format)
    assert_same(net, torch.rand(2, 6, *SIZE), rtol=0, atol=0)


def test_encoders_with_frozen_parts_learn_as_plain_ones():
    net = encoder().double().train()
    net.net.bn1.eval()
    net.net.layer1.requires_grad_(False)
    net.net.layer2.requires_grad_(False).eval()
    net.net.layer3[0].bn1.requires_grad_(False)
    assert_same(net, torch.rand(2, 3, *SIZE, dtype=torch.float64), **EXACT)


def test_encoders_learn_as_plain_ones_under_autocast():
    with torch.autocast('cpu', torch.bfloat16):
        assert_same(encoder(), torch.rand(2, 3, *SIZE), rtol=1e-6, atol=1e-6)


def alive(net, image):
    """Names of the modules with outputs in memory after the forward pass, their bytes, and the
    bottleneck that holds the graph."""
    outputs = {}

    def watch(name):
        def hook(module, inputs, output):
            storage = output.untyped_storage()
            reference = StorageWeakRef(storage)
            outputs.setdefault(reference.cdata, (reference, name, storage.nbytes()))

        return hook

    hooks = [
        module.register_forward_hook(watch(name))
        for name, module in net.net.named_modules()
        if not list(module.children())
    ]
    bottleneck = net(image)[-1]
    for hook in hooks:
        hook.remove()
    return {
        name: size for reference, name, size in outputs.values() if not reference.expired()
    }, bottleneck


@pytest.mark.parametrize('name', ['resnet18', 'resnet50'])
def test_a_resnet_keeps_outputs_of_convolutions(name):
    net, image = encoder(name), torch.rand(2, 3, *SIZE)
    found, bottleneck = alive(net, image)
    convolutions = {key for key, module in net.net.named_modules() if isinstance(module, nn.Conv2d)}
    last = [
        key
        for key, module in net.net.named_modules()
        if isinstance(module, nn.BatchNorm2d) and 'downsample' not in key
    ][-1]  # whose output became the bottleneck
    assert set(found) == convolutions | {'maxpool', last}
    expected, _ = alive(plain(net), image)
    assert set(expected) > set(found) and sum(expected.values()) > 1.7 * sum(found.values())
    assert bottleneck.requires_grad


def tensors():
    """How many there are."""
    return sum(type(x) is torch.Tensor for x in gc.get_objects())


def test_what_is_computed_again_is_dropped_again():
    net = encoder()
    gc.disable()  # nothing holds itself
    try:
        before = tensors()
        for backward in (True, False):
            loss = net(torch.rand(1, 3, *SIZE))[-1].sum()
            if backward:
                torch.autograd.grad(loss, list(net.parameters()))
            del loss
            assert tensors() == before
    finally:
        gc.enable()
    assert not any(module._forward_hooks for module in net.modules())


# Attention


def plain_attention(net, own, other):
    """What merged attention gives, step by step."""
    merged, value, value_bias = net.merge()
    scores = [
        F.conv2d(own, merged.offset, merged.offset_bias)[:, i : i + 1]
        + (F.conv2d(own, *pair) * other).sum(1, keepdim=True)
        for i, pair in enumerate(
            zip(merged.score.chunk(HEADS - 1), merged.score_bias.chunk(HEADS - 1), strict=True)
        )
    ]
    weights = F.softmax(torch.cat([torch.zeros_like(scores[0]), *scores], 1), 1)
    values = F.conv2d(own, merged.value, merged.value_bias).unflatten(1, (HEADS - 1, -1))
    return (weights[:, 1:, None] * values).sum(1) + F.conv2d(own, value, value_bias)


def pair(channels, dtype=torch.float32, **kwargs):
    return [
        torch.randn(2, channels, 5, 7, dtype=dtype).to(**kwargs).requires_grad_() for _ in range(2)
    ]


def attention_outcomes(net, inputs, attended):
    learning = [
        *inputs,
        *(p for layer in (net.query, net.key, net.value, net.project) for p in layer.parameters()),
    ]
    target = torch.linspace(-1, 1, attended.numel(), dtype=attended.dtype).view_as(attended)
    return [attended, *torch.autograd.grad((attended * target).sum(), learning)]


@pytest.mark.parametrize('memory_format', [torch.channels_last, torch.contiguous_format])
def test_attention_learns_as_a_plain_one(memory_format):
    net = CrossTaskAttention(6).double()
    inputs = pair(6, torch.float64, memory_format=memory_format)
    found, expected = (
        attention_outcomes(net, inputs, attended)
        for attended in (net._merged(*inputs), plain_attention(net, *inputs))
    )
    torch.testing.assert_close(found, expected, **EXACT)
    assert found[1].stride() == found[2].stride() == inputs[0].stride()


def test_attention_under_autocast():
    net, inputs = CrossTaskAttention(8), pair(8)
    with torch.autocast('cpu', torch.bfloat16):
        attended = net._merged(*inputs)
    found, expected = (
        attention_outcomes(net, inputs, x)
        for x in (attended.float(), plain_attention(net, *inputs))
    )
    for x, y in zip(found, expected, strict=True):
        # A bias of keys or queries bears little on weights: its gradient is a small difference.
        assert x.dtype == torch.float32 and (x - y).norm() < 0.03 * y.norm() + 0.003


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_attention_says_without_gradients_what_it_says_with_them(threads):
    # With one thread, torch convolves by one library with gradients and by another without (see
    # ``convolve``). They add the same products in another order, so each of the three convolutions
    # in a row, of at most 6 products and a bias, may differ by some units in the last place.
    net, inputs = CrossTaskAttention(6), pair(6)
    expected = net._merged(*inputs)
    bound = 3 * 7 * torch.finfo(expected.dtype).eps * expected.abs().max().item()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            torch.testing.assert_close(net._merged(*inputs), expected, rtol=0, atol=bound)


def test_attention_keeps_keys_but_no_values():
    net, inputs, kept = CrossTaskAttention(6), pair(6), {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        merged, *_ = net.merge()
        kept.clear()
        plain_attention(net, *inputs)
        expected = sum(x.nbytes() for x in kept.values())
        kept.clear()
        net._merged(*inputs)
    found = sum(x.nbytes() for x in kept.values())
    features = (HEADS - 1) * inputs[0].nbytes
    assert expected - found > 0.9 * features and merged.value.requires_grad
