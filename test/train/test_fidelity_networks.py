"""The networks beside the papers' own public code: same weights and images, same outputs.

Needs clones, which the environment names; see ``test_fidelity_losses.py``. ``pytest -s`` prints the
differences.

SfMLearner's own code needs TensorFlow 1: its port to PyTorch stands in for it. Where that departs
from the paper, the paper's network is ours, and the comparison takes weights that both can hold:
- the port's explainability decoder has 4x4 transposed convolutions and 3x3 heads, where the paper
  has 3, 3, 3, 5, 7 and 3, 3, 5, 7: the smaller kernel is set inside the larger one;
- its masks are a sigmoid of one channel, where the paper has a softmax of two: the first is set
  to 0.
"""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from support.reference_code import load
from torch import nn

from train.networks.attention import CrossTaskAttention, FusedAttention
from train.networks.dispnet import DispNet
from train.networks.perception import fuse_for_inference, make_perception
from train.networks.pose import ResNetPose, SfmPoseNet

HEIGHT, WIDTH = 96, 160
FSRE = ('FSRE_DEPTH', 'hyBlue/FSRE-Depth')
PORT = ('SFMLEARNER_PYTORCH', 'ClementPinard/SfmLearner-Pytorch')


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def fsre():
    """FSRE-Depth's network classes."""
    names = {
        'cma': 'CMA',
        'depth_decoder': 'DepthDecoder',
        'seg_decoder': 'SegDecoder',
        'multi_embedding': 'MultiEmbedding',
        'resnet_encoder': 'ResnetEncoder',
        'pose_decoder': 'PoseDecoder',
    }
    modules = load(*FSRE, *(f'networks.{name}' for name in names))
    return SimpleNamespace(
        **{c: getattr(m, c) for m, c in zip(modules, names.values(), strict=True)}
    )


@pytest.fixture
def port():
    return load(*PORT, 'models')[0]


OPTIONS = SimpleNamespace(scales=range(4), cma_layers=[3, 2, 1], num_head=4, head_ratio=2, sgt=True)


def same_weights(theirs, ours):
    """Give ours, a list of modules, the weights of theirs, both in their order of appearance.

    Theirs get batch-norm statistics that are not the first ones.
    """
    for module in theirs:
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d):
                for tensor in (norm.weight.data, norm.running_var):
                    nn.init.uniform_(tensor, 0.5, 1.5)
                for tensor in (norm.bias.data, norm.running_mean):
                    nn.init.uniform_(tensor, -0.5, 0.5)
    # They keep ResNet's classifier, which nothing uses.
    source = [v for m in theirs for k, v in m.state_dict().items() if '.fc.' not in k]
    target = [v for m in ours for v in m.state_dict().values()]
    assert [v.shape for v in source] == [v.shape for v in target]
    for one, other in zip(source, target, strict=True):
        other.copy_(one)


def compare(what, ours, theirs):
    """Print and judge the largest difference, relative to the largest value."""
    difference = ((ours - theirs).abs().max() / theirs.abs().max()).item()
    print(f'{what}: {difference:.1e}')
    assert ours.shape == theirs.shape and difference < 1e-4


def multi_task(fsre, layers=18, attention=True):
    """Their encoder and decoders, ours with the same weights, and an image."""
    encoder = fsre.ResnetEncoder(layers, False)
    if attention:
        decoders = [fsre.CMA(encoder.num_ch_enc, OPTIONS)]
    else:
        decoders = [
            fsre.DepthDecoder(encoder.num_ch_enc),
            fsre.SegDecoder(encoder.num_ch_enc, scales=[0]),
        ]
    net = make_perception('fsre', f'resnet{layers}', attention=attention)
    same_weights(
        [encoder, *decoders],
        [net.encoder, net.depth, net.semantics, net.refine_depth, net.refine_semantics],
    )

    def theirs(image):
        features = encoder(image)
        if attention:
            return decoders[0](features)
        return [decoder(features) for decoder in decoders]

    return nn.ModuleList([encoder, *decoders]), theirs, net, torch.rand(2, 3, HEIGHT, WIDTH)


@pytest.mark.parametrize('layers, attention', [(18, True), (18, False), (50, True)])
def test_fsre_depth_and_semantics(fsre, layers, attention):
    modules, theirs, net, image = multi_task(fsre, layers, attention)
    modules.eval()
    net.eval()
    with torch.no_grad():
        depth, semantics = theirs(image)
        found, fused = net(image), fuse_for_inference(net)(image)
        alone = fuse_for_inference(net, semantics=False)(image)
    name = f'fsre resnet{layers}, {"attention" if attention else "no attention"}'
    for s in range(4):
        disparity = 0.01 + 9.99 * depth['disp', s]
        compare(f'{name}: disparity {s}', found.disparities[s], disparity)
    for s in (1, 2, 3):
        compare(f'{name}: features {s}', found.features[s - 1], depth['d_feature', s])
    compare(f'{name}: logits', found.logits, semantics['seg_logits', 0])
    disparity = 0.01 + 9.99 * depth['disp', 0]
    compare(f'{name}: fused disparity', fused.disparities[0], disparity)
    compare(f'{name}: fused logits', fused.logits, semantics['seg_logits', 0])
    compare(f'{name}: fused disparity, depth alone', alone.disparities[0], disparity)


def test_fsre_gradients_in_training(fsre):
    modules, theirs, net, image = multi_task(fsre)
    modules.double().train()
    net.double().train()
    image = image.double()
    weight = [torch.rand(2, 1, HEIGHT >> s, WIDTH >> s) for s in range(4)]
    labels = torch.randint(0, 19, (2, HEIGHT, WIDTH))
    results = []
    for inputs in (image.clone().requires_grad_(), image.clone().requires_grad_()):
        if results:
            depth, semantics = theirs(inputs)
            disparities = [0.01 + 9.99 * depth['disp', s] for s in range(4)]
            logits, parameters = (
                semantics['seg_logits', 0],
                [p for k, p in modules.named_parameters() if '.fc.' not in k],
            )
        else:
            disparities, logits, _ = net(inputs)
            parameters = list(net.parameters())
        loss = F.cross_entropy(logits, labels) + sum(
            (w * d).mean() for w, d in zip(weight, disparities, strict=True)
        )
        results.append(torch.autograd.grad(loss, [inputs, *parameters]))
    ours, theirs = results
    compare('fsre: gradient of the image', ours[0], theirs[0])
    # Each tensor's gradient beside its own size.
    errors = [
        (a - b).norm() / b.norm().clamp(min=1e-6) for a, b in zip(ours[1:], theirs[1:], strict=True)
    ]
    print(f'fsre: gradients of {len(errors)} parameters: {max(errors):.1e}')
    assert max(errors) < 1e-4


@pytest.mark.parametrize('channels, size', [(256, (12, 40)), (128, (24, 80)), (64, (48, 160))])
def test_cross_task_attention(fsre, channels, size):
    theirs, ours = fsre.MultiEmbedding(channels, 4, 2).eval(), CrossTaskAttention(channels).eval()
    same_weights([theirs], [ours])
    own, other = torch.randn(2, 1, channels, *size)
    with torch.no_grad():
        expected = theirs(own, other)
        compare(f'attention, {channels} channels', ours(own, other), expected)
        compare(
            f'attention, {channels} channels, fused', FusedAttention(ours)(own, other), expected
        )


def test_fsre_pose(fsre):
    encoder = fsre.ResnetEncoder(18, False, num_input_images=2)
    decoder = fsre.PoseDecoder(encoder.num_ch_enc)
    net = ResNetPose('resnet18')
    same_weights([encoder, decoder], [net.encoder, net.head])
    pair = torch.rand(2, 2, 3, HEIGHT, WIDTH)
    with torch.no_grad():
        rotation, translation = decoder.eval()([encoder.eval()(pair.flatten(1, 2))])
        compare(
            'fsre: pose',
            net.eval()(*pair.unbind(1)),
            torch.cat([rotation[:, 0, 0], translation[:, 0, 0]], 1),
        )


@pytest.mark.parametrize('size', [(128, 416), (75, 101)])
def test_dispnet(port, size):
    theirs, ours = port.DispNetS(), DispNet()
    same_weights([theirs], [ours])
    image = torch.rand(1, 3, *size)
    with torch.no_grad():
        expected = theirs(2 * image - 1)
        for s, disparity in enumerate(ours(image).disparities):
            compare(f'DispNet {size}: disparity {s}', disparity, expected[s])


@pytest.mark.parametrize('views', [3, 5])
def test_sfm_pose_and_explainability(port, views):
    theirs = port.PoseExpNet(views - 1, output_exp=True)
    ours = SfmPoseNet(views, explainability=True)
    same_weights(
        [getattr(theirs, f'conv{i}') for i in range(1, 8)] + [theirs.pose_pred],
        [ours.layers, ours.head],
    )
    with torch.no_grad():
        for up, level in zip(ours.explainability.up, (5, 4, 3, 2, 1), strict=True):
            wide, narrow = up[0], getattr(theirs, f'upconv{level}')[0]
            # Offsets -1 to 2 of their kernel; ours has -1 to 1, -2 to 2 or -3 to 3.
            pad = wide.kernel_size[0] // 2 - 1
            if pad:
                wide.weight.zero_()[:, :, pad : pad + 4, pad : pad + 4] = narrow.weight
            else:
                narrow.weight[:, :, 3], narrow.weight[:, :, :, 3] = 0, 0
                wide.weight.copy_(narrow.weight[:, :, :3, :3])
            wide.bias.copy_(narrow.bias)
        for head, level in zip(ours.explainability.heads, (4, 3, 2, 1), strict=True):
            narrow, pad = getattr(theirs, f'predict_mask{level}'), head.kernel_size[0] // 2 - 1
            nn.init.zeros_(head.bias)[1::2] = narrow.bias
            nn.init.zeros_(head.weight)[1::2, :, pad : pad + 3, pad : pad + 3] = narrow.weight
        frames = torch.rand(2, views, 3, 75, 101)
        target, *sources = (
            2 * frames[:, i] - 1
            for i in (views // 2, *(i for i in range(views) if i != views // 2))
        )
        masks, poses = theirs(target, sources)
        found, logits = ours(frames)
    compare(f'SfMLearner pose, {views} views', found, poses)
    for s, x in enumerate(logits):
        explained = F.softmax(x.unflatten(1, (-1, 2)), 2)[:, :, 1]
        compare(f'SfMLearner explainability, {views} views: mask {s}', explained, masks[s])
