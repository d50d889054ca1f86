"""The networks: sizes, attention by hand, gradients, and what inference leaves out."""

import math

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from support.networks import HEIGHT, WIDTH, count, image, trained
from torch import nn
from torch.func import functional_call

from train.networks.dispnet import DispNet
from train.networks.intrinsics import IntrinsicsHead
from train.networks.layers import crop_like
from train.networks.perception import (
    DEFAULT_RANGE,
    MAX_DEPTH,
    MIN_DEPTH,
    fuse_for_inference,
    make_perception,
)
from train.networks.pose import SfmPoseNet, make_pose
from train.networks.unet import ReflectConv, _ReflectConv

pytestmark = pytest.mark.slow  # networks of their full size

DEPTH_NETWORKS = {
    'light': {'network': 'light', 'encoder': 'efficientnet_lite0'},
    'light, depth only': {'network': 'light', 'encoder': 'efficientnet_lite0', 'semantics': False},
    'fsre': {'network': 'fsre', 'attention': True},
    'fsre, no attention': {'network': 'fsre'},
    'fsre, depth only': {'network': 'fsre', 'semantics': False},
    'fsre, MobileNet': {'network': 'fsre', 'encoder': 'mobilenetv3_large_100', 'attention': True},
    'dispnet': {'network': 'dispnet', 'semantics': False},
    'dispnet, batch norm': {'network': 'dispnet', 'semantics': False, 'batch_norm': True},
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# Sizes


@pytest.mark.parametrize('kwargs', DEPTH_NETWORKS.values(), ids=DEPTH_NETWORKS)
def test_depth_networks(kwargs):
    net = make_perception(classes=7, **kwargs).eval()
    with torch.no_grad():
        prediction = net(image(2))
    light, fsre = (kwargs['network'] == name for name in ('light', 'fsre'))
    scales = (1, 2, 3) if light else (0, 1, 2, 3)
    assert [d.shape for d in prediction.disparities] == [
        (2, 1, HEIGHT >> s, WIDTH >> s) for s in scales
    ]
    for d in prediction.disparities:
        assert d.dtype == torch.float32 and 0.01 <= d.min() and d.max() <= 10.01
    if kwargs.get('semantics', True):
        assert prediction.logits.shape == (2, 7, HEIGHT >> light, WIDTH >> light)
    else:
        assert prediction.logits is None
    assert [f.shape for f in prediction.features] == (
        [
            (2, 32, HEIGHT >> 1, WIDTH >> 1),
            (2, 64, HEIGHT >> 2, WIDTH >> 2),
            (2, 128, HEIGHT >> 3, WIDTH >> 3),
        ]
        if fsre
        else []
    )


def test_parameter_counts_of_the_papers():
    net = make_perception('fsre', attention=True)
    assert count(net.encoder) == 11_176_512
    assert round((count(net) - count(net.encoder)) / 1e6, 2) == 14.07
    depth_only = make_perception('fsre', semantics=False)
    assert round((count(depth_only) - count(depth_only.encoder)) / 1e6, 2) == 3.15
    assert round(count(DispNet()) / 1e6, 2) == 31.60
    assert round(count(SfmPoseNet(3)) / 1e6, 2) == 1.59
    pose = make_pose('resnet')
    # ResNet-18 with three more input channels, and 1.31 M of its decoder.
    assert count(pose.encoder) == 11_176_512 + 64 * 3 * 7 * 7
    assert round(count(pose.head) / 1e6, 2) == 1.31


def test_range_of_disparity():
    limits = 1 / DEFAULT_RANGE.disparity(torch.tensor([-100.0, 100.0]))
    torch.testing.assert_close(limits, torch.tensor([MAX_DEPTH, MIN_DEPTH]))


def test_contradictions_are_errors():
    for kwargs in (
        {'network': 'light'},
        {'network': 'dispnet'},
        {'network': 'fsre', 'semantics': False},
    ):
        with pytest.raises(ValueError, match='attention needs network: fsre'):
            make_perception(attention=True, **kwargs)
    with pytest.raises(ValueError, match="'unet', must be light, fsre or dispnet"):
        make_perception('unet')
    with pytest.raises(ValueError, match="'lstm', must be light, resnet or sfm"):
        make_pose('lstm')


@pytest.mark.parametrize('size', [(75, 101), (97, 130), (128, 416)])
def test_dispnet_takes_any_size(size):
    with torch.no_grad():
        disparities = DispNet()(image(1, *size)).disparities
    for s, d in enumerate(disparities):
        assert d.shape[2:] == tuple(math.ceil(x / 2**s) for x in size)


@pytest.mark.parametrize('size', [1, 2, 3, 7, 13, 38, 101])
def test_cropping_is_the_nearest_resize_of_the_paper(size):
    doubled = torch.rand(1, 1, 2 * math.ceil(size / 2), 2 * math.ceil(size / 2))
    reference = torch.empty(1, 1, size, size)
    assert torch.equal(crop_like(doubled, reference), F.interpolate(doubled, (size, size)))


@pytest.mark.parametrize('views', [2, 3, 5])
@pytest.mark.parametrize('size', [(128, 416), (75, 101)])
def test_sfm_pose_network(views, size):
    frames = torch.rand(2, views, 3, *size)
    poses, logits = SfmPoseNet(views)(frames)
    assert poses.shape == (2, views - 1, 6) and logits == []
    net = SfmPoseNet(views, explainability=True)
    poses, logits = net(frames)
    assert [m.shape for m in logits] == [
        (2, 2 * (views - 1), *(math.ceil(x / 2**s) for x in size)) for s in range(4)
    ]
    # The middle frame is the target and comes first, in -1..1.
    order = {2: [1, 0], 3: [1, 0, 2], 5: [2, 0, 1, 3, 4]}[views]
    torch.testing.assert_close(
        net.encode(frames)[0], torch.cat([2 * frames[:, i] - 1 for i in order], 1)
    )
    with pytest.raises(ValueError, match=f'takes {views}'):
        net(frames[:, 1:])


@pytest.mark.parametrize('network', ['light', 'resnet', 'sfm'])
def test_poses_are_a_hundredth_of_the_mean(network):
    net = make_pose(network, views=2).eval()
    final = [m for m in net.modules() if isinstance(m, nn.Conv2d)][-1]
    nn.init.zeros_(final.weight)
    final.bias.data = torch.arange(6.0)
    pair = image(), image()
    poses = net(torch.stack(pair, 1))[0][:, 0] if network == 'sfm' else net(*pair)
    torch.testing.assert_close(poses, torch.arange(6.0)[None] / 100)


@pytest.mark.parametrize('network', ['light', 'resnet'])
def test_pose_depends_on_the_order_of_a_pair(network):
    net, (a, b) = trained(make_pose(network)), image(2).split(1)
    bottleneck = net.encode(a, b)
    assert bottleneck.shape[1] == net.feature_channels
    assert torch.equal(net(a, b), net.decode(bottleneck))
    assert not torch.allclose(net(a, b), net(b, a), rtol=1e-3)


def test_intrinsics_by_hand():
    head = IntrinsicsHead(8)
    first = head(torch.rand(2, 8, 2, 3), 640, 192)
    expected = torch.tensor(
        [[math.log(2) * 640, 0, 319.5], [0, math.log(2) * 192, 95.5], [0, 0, 1]]
    )
    torch.testing.assert_close(first, expected.expand(2, 3, 3))
    # softplus(log(e - 1)) = 1; a centre off to either side.
    head.layer.bias.data = torch.tensor([math.log(math.e - 1), math.log(math.e**2 - 1), -0.1, 0.25])
    expected = torch.tensor([[640, 0, 255.5], [0, 384, 143.5], [0, 0, 1]])
    torch.testing.assert_close(head(torch.rand(1, 8, 2, 3), 640, 192)[0], expected)


# Decoder


class Convolution(ReflectConv):
    """Of 3 channels, and more to join."""

    def __init__(self, way, skip_channels, activate=True):
        super().__init__(3 + skip_channels, 5, activate)
        self.way, self.skip_channels = way, skip_channels

    def forward(self, x, skip):
        if self.way == 'double on GPUs':
            return _ReflectConv.apply(x, skip, self.weight, self.bias, True, self.activate)
        return super().forward(x, skip, double=self.way == 'double')

    def plain(self, x, skip):
        if self.way != 'single':
            x = F.interpolate(x, scale_factor=2.0, mode='nearest')
        x = F.pad(x if skip is None else torch.cat([x, skip], 1), (1, 1, 1, 1), mode='reflect')
        y = F.conv2d(x, self.weight, self.bias)
        return F.elu(y) if self.activate else y

    def inputs(self, height, width):
        x = torch.randn(2, 3, height, width, dtype=self.weight.dtype, requires_grad=True)
        if not self.skip_channels:
            return x, None
        scale = 1 if self.way == 'single' else 2
        return x, torch.randn(
            2,
            self.skip_channels,
            scale * height,
            scale * width,
            dtype=self.weight.dtype,
            requires_grad=True,
        )

    def learning(self, inputs):
        return [*(t for t in inputs if t is not None), self.weight, self.bias]


WAYS = ['single', 'double', 'double on GPUs']


@pytest.mark.parametrize('activate', [True, False])
@pytest.mark.parametrize('size', [(2, 2), (3, 5), (6, 7)])
@pytest.mark.parametrize('skip_channels', [0, 1, 4])
@pytest.mark.parametrize('way', WAYS)
def test_convolutions_of_decoders_are_exact(way, skip_channels, size, activate):
    conv = Convolution(way, skip_channels, activate).double()
    inputs = conv.inputs(*size)
    expected = conv.plain(*inputs)
    target = torch.randn_like(expected)
    results = [
        (y, *torch.autograd.grad((y * target).sum(), conv.learning(inputs)))
        for y in (conv(*inputs), expected)
    ]
    for found, reference in zip(*results, strict=True):
        torch.testing.assert_close(found, reference, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('skip_channels', [0, 1])
@pytest.mark.parametrize('way', WAYS)
def test_gradients_of_decoder_convolutions(way, skip_channels):
    conv = Convolution(way, skip_channels).double()

    def function(x, skip, weight, bias):
        return functional_call(conv, {'weight': weight, 'bias': bias}, (x, skip))

    assert torch.autograd.gradcheck(
        function, (*conv.inputs(2, 3), conv.weight, conv.bias), fast_mode=True
    )


@pytest.mark.parametrize('skip_channels', [0, 4])
@pytest.mark.parametrize('way', WAYS)
def test_decoders_keep_neither_doubled_nor_padded_features(way, skip_channels):
    conv, kept = Convolution(way, skip_channels), set()
    inputs = conv.inputs(3, 5)

    def keep(tensor):
        kept.add(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = conv(*inputs)
    assert kept == {t.data_ptr() for t in (*inputs, conv.weight, y) if t is not None}


@pytest.mark.parametrize('skip_channels', [0, 4])
@pytest.mark.parametrize('way', WAYS)
def test_decoders_stay_channels_last(way, skip_channels):
    conv = Convolution(way, skip_channels).to(memory_format=torch.channels_last)
    inputs = [
        t
        if t is None
        else t.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
        for t in conv.inputs(3, 5)
    ]
    y = conv(*inputs)
    *gradients, of_weight, _ = torch.autograd.grad(y, conv.learning(inputs), torch.randn_like(y))
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert of_weight.stride() == conv.weight.stride()
    for gradient in gradients:  # which may be parts of a common one
        assert gradient.stride(1) == 1 < gradient.stride(3) < gradient.stride(2)


@pytest.mark.parametrize('skip_channels', [0, 4])
@pytest.mark.parametrize('way', ['single', 'double'])
def test_decoders_under_autocast(way, skip_channels):
    conv = Convolution(way, skip_channels)
    inputs = conv.inputs(6, 7)
    with torch.autocast('cpu', torch.bfloat16):
        found = conv(*inputs)
    assert found.dtype == torch.bfloat16
    expected = conv.plain(*inputs)
    target = torch.randn_like(expected)
    results = [
        (y.float(), *torch.autograd.grad((y * target).sum(), conv.learning(inputs)))
        for y in (found, expected)
    ]
    for found, reference in zip(*results, strict=True):
        assert found.dtype == torch.float32
        assert (found - reference).norm() < 0.01 * reference.norm()


@pytest.mark.parametrize('way', ['single', 'double'])
def test_decoders_say_without_gradients_what_they_say_with_them(way):
    conv = Convolution(way, 4)
    inputs = conv.inputs(6, 7)
    expected = conv(*inputs)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.equal(conv(*inputs), expected)


# Inference


@pytest.mark.parametrize('semantics', [True, False])
@pytest.mark.parametrize('kwargs', DEPTH_NETWORKS.values(), ids=DEPTH_NETWORKS)
def test_fused_networks_say_the_same(kwargs, semantics):
    net = trained(make_perception(classes=7, **kwargs)).double()
    x = image(dtype=torch.float64)
    with torch.no_grad():
        expected = net(x)
        fused = fuse_for_inference(net, semantics)
        found = fused(x)
        again = net(x)
    torch.testing.assert_close(found.disparities[0], expected.disparities[0], rtol=1e-6, atol=0)
    if semantics and expected.logits is not None:
        torch.testing.assert_close(found.logits, expected.logits, rtol=1e-9, atol=1e-9)
    else:
        assert found.logits is None
    assert not fused.training and not any(p.requires_grad for p in fused.parameters())
    # The trained network is left as it was.
    assert torch.equal(again.disparities[0], expected.disparities[0])
    assert any(p.requires_grad for p in net.parameters())


def test_depth_alone_needs_no_fine_semantics():
    net = make_perception('fsre', attention=True)
    fused = fuse_for_inference(net, semantics=False)
    assert len(fused.depth.heads) == 1
    assert len(fused.semantics.stages) == 3 and len(fused.semantics.heads) == 0
    assert len(fused.refine_depth) == 3 and len(fused.refine_semantics) == 2
    # All that is left bears on depth.
    x = image()
    fused.requires_grad_(True)(x).disparities[0].sum().backward()
    assert all(p.grad is not None for p in fused.parameters())


class Deployed(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        prediction = self.net(x)
        return prediction.disparities[0], prediction.logits.argmax(1)


@pytest.mark.slow
def test_fused_network_in_onnx():
    net = trained(make_perception('fsre', classes=5, attention=True))
    x = image()
    program = torch.onnx.export(
        Deployed(fuse_for_inference(net)).eval(),
        (x,),
        dynamo=True,
        opset_version=18,
        verbose=False,
        input_names=['image'],
    )
    model = program.model_proto
    assert {node.op_type for node in model.graph.node} <= {
        'Add',
        'ArgMax',
        'Concat',
        'Conv',
        'Div',
        'Elu',
        'MaxPool',
        'Mul',
        'Pad',
        'ReduceSum',
        'Relu',
        'Resize',
        'Sigmoid',
        'Softmax',
        'Split',
        'Sub',
    }
    session = onnxruntime.InferenceSession(model.SerializeToString())
    found, labels = session.run(None, {'image': x.numpy()})
    with torch.no_grad():
        expected = net(x)
    torch.testing.assert_close(torch.from_numpy(found), expected.disparities[0], rtol=1e-5, atol=0)
    assert (torch.from_numpy(labels) == expected.logits.argmax(1)).float().mean() > 0.999


# Gradients

POSE_NETWORKS = {
    'light': lambda: make_pose('light'),
    'resnet': lambda: make_pose('resnet'),
    'sfm': lambda: make_pose('sfm', views=3, explainability=True),
    'sfm, batch norm': lambda: make_pose('sfm', views=3, explainability=True, batch_norm=True),
}


def assert_all_learn(net, outputs):
    sum(x.square().sum() for x in outputs).backward()
    idle = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


@pytest.mark.parametrize('kwargs', DEPTH_NETWORKS.values(), ids=DEPTH_NETWORKS)
def test_every_parameter_of_depth_networks_learns(kwargs):
    # A ResNet's branches begin at zero, and with them their gradients.
    net = trained(make_perception(classes=7, **kwargs)).train()
    prediction = net(image(2, 128, 128))
    logits = [] if prediction.logits is None else [prediction.logits]
    assert_all_learn(net, [*prediction.disparities, *logits])


@pytest.mark.parametrize('make', POSE_NETWORKS.values(), ids=POSE_NETWORKS)
def test_every_parameter_of_pose_networks_learns(make):
    net = trained(make()).train()
    frames = torch.rand(2, 3, 3, 256, 256)
    if isinstance(net, SfmPoseNet):
        poses, logits = net(frames)
        outputs = [poses, *logits]
    else:
        outputs = [net(frames[:, 0], frames[:, 1])]
    assert_all_learn(net, outputs)


def test_every_parameter_of_the_intrinsics_head_learns():
    head = IntrinsicsHead(8)
    assert_all_learn(head, [head(torch.rand(2, 8, 2, 3), 640, 192)])
