"""The pose networks, which estimate the camera's motion between images.

Networks of pairs have ``forward(previous, current)`` = ``decode(encode(previous, current))``;
:class:`SfmPoseNet` has ``forward(frames)``. ``feature_channels`` is the number of channels of the
bottleneck, from which :class:`~train.networks.intrinsics.IntrinsicsHead` estimates the intrinsics.

Class attributes tell what a network can do:

    pairs: whether it takes two images; otherwise it takes all views of a sample at once.
    outputs: its outputs besides poses: 'masks' (explainability).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from train.networks.decoder import conv_block
from train.networks.encoder import make_encoder
from train.networks.explainability import ExplainabilityDecoder
from train.networks.layers import conv_relu, init_xavier


class PairNet(nn.Module):
    """Base of the networks for two images in temporal order.

    Attributes:
        feature_channels: number of channels of the bottleneck features.
    """

    pairs = True
    outputs = ()
    feature_channels: int

    def forward(self, previous: Tensor, current: Tensor) -> Tensor:
        """Pose (B, 6) T_previous_current of images (B, 3, H, W) in 0..1, in temporal order.

        Rotation vector in radians, then translation in model units (see
        ``depth_ros.inference.contract.POSE_CONVENTION``).
        """
        return self.decode(self.encode(previous, current))

    def encode(self, previous: Tensor, current: Tensor) -> Tensor:
        """Compute the bottleneck features (B, C, h, w) of images (B, 3, H, W) in 0..1."""
        raise NotImplementedError

    def decode(self, bottleneck: Tensor) -> Tensor:
        """Pose (B, 6) of bottleneck features."""
        raise NotImplementedError


class PoseNet(PairNet):
    """Seven stride-2 convolutions, 1x1 convolution, spatial mean, x0.01 (SfMLearner, section 3.5).

    Narrower than the paper's in its last layers and with batch norm, which makes it a quarter of
    the size and lets it train at higher learning rates.
    """

    widths = (16, 32, 64, 96, 128, 192, 192)
    feature_channels = widths[-1]

    def __init__(self) -> None:
        super().__init__()
        kernels = (7, 5, 3, 3, 3, 3, 3)
        channels = (6, *self.widths)
        self.layers = nn.Sequential(
            *(conv_block(channels[i], channels[i + 1], kernels[i], stride=2) for i in range(7))
        )
        self.head = nn.Conv2d(channels[-1], 6, 1)

    def encode(self, previous: Tensor, current: Tensor) -> Tensor:
        """Bottleneck features (B, 192, H/128, W/128) of images (B, 3, H, W) in 0..1."""
        return self.layers((torch.cat([previous, current], 1) - 0.45) / 0.225)

    def decode(self, bottleneck: Tensor) -> Tensor:
        """Pose (B, 6) of bottleneck features."""
        return _small_mean(self.head(bottleneck))


class ResNetPose(PairNet):
    """FSRE-Depth's pose network: an encoder of two images, then four convolutions.

    Args:
        encoder, weights: see :func:`train.networks.encoder.make_encoder`.
    """

    def __init__(self, encoder: str = 'resnet18', weights: str = '') -> None:
        super().__init__()
        self.encoder = make_encoder(encoder, weights, in_channels=6)
        self.feature_channels = self.encoder.channels[-1]
        self.head = nn.Sequential(
            nn.Conv2d(self.feature_channels, 256, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 6, 1),
        )

    def encode(self, previous: Tensor, current: Tensor) -> Tensor:
        """Bottleneck features (B, feature_channels, H/32, W/32) of images (B, 3, H, W) in 0..1."""
        return self.encoder(torch.cat([previous, current], 1))[-1]

    def decode(self, bottleneck: Tensor) -> Tensor:
        """Pose (B, 6) of bottleneck features."""
        return _small_mean(self.head(bottleneck))


class SymmetricPose(PairNet):
    """Half the difference between a network's poses of a pair and of the reversed pair.

    To first order the reversed motion is minus the motion, so nothing is lost. Errors that do not
    depend on the order cancel instead of adding up: two equal images give exactly no motion.

    Args:
        net: a network of pairs; it processes both orders in one pass.
    """

    def __init__(self, net: PairNet) -> None:
        super().__init__()
        self.net = net
        self.feature_channels = net.feature_channels

    def encode(self, previous: Tensor, current: Tensor) -> Tensor:
        """Bottleneck features (2 B, C, h, w): of the pairs, then of the pairs reversed."""
        return self.net.encode(torch.cat([previous, current]), torch.cat([current, previous]))

    def decode(self, bottleneck: Tensor) -> Tensor:
        """Pose (B, 6) of bottleneck features (2 B, C, h, w)."""
        there, back = self.net.decode(bottleneck).chunk(2)
        return (there - back) / 2


class SfmPoseNet(nn.Module):
    """SfMLearner's pose network of all views at once (sections 3.3 and 3.5).

    Args:
        views: number of images of a sample; the middle one, ``views // 2``, is the target.
        explainability: whether it also predicts explainability masks.
        batch_norm: see :mod:`train.networks.layers`.
    """

    pairs = False
    outputs = ('masks',)

    widths = (16, 32, 64, 128, 256, 256, 256)
    kernels = (7, 5, 3, 3, 3, 3, 3)
    feature_channels = widths[-1]

    def __init__(
        self, views: int = 3, explainability: bool = False, batch_norm: bool = False
    ) -> None:
        super().__init__()
        self.views = views
        channels = (3 * views, *self.widths)
        self.layers = nn.ModuleList(
            conv_relu(channels[i], channels[i + 1], self.kernels[i], 2, batch_norm)
            for i in range(7)
        )
        self.head = nn.Conv2d(channels[-1], 6 * (views - 1), 1)
        self.explainability = (
            ExplainabilityDecoder(views - 1, batch_norm) if explainability else None
        )
        init_xavier(self)

    def forward(self, frames: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Estimate the motion between the target and every other view, and explainability masks.

        Args:
            frames: (B, views, 3, H, W) in 0..1, in temporal order.

        Returns:
            Poses (B, views - 1, 6) T_source_target, sources in temporal order: translation in
            model units, then Euler angles x, y, z in radians with R = Rx Ry Rz; and a list of mask
            logits (B, 2 (views - 1), H/2^s, W/2^s), s = 0..3, empty without explainability. The
            softmax over the two logits of a source says "not explained" and "explained".
        """
        return self.decode(self.encode(frames))

    def encode(self, frames: Tensor) -> list[Tensor]:
        """Compute the features of frames (B, views, 3, H, W) in 0..1.

        Returns:
            The network's input (B, 3 views, H, W), target first, then features at 1/2 ... 1/128,
            of which the last is the bottleneck.

        Raises:
            ValueError: if the number of frames is not ``views``.
        """
        if frames.shape[1] != self.views:
            raise ValueError(f'{frames.shape[1]} frames, but the pose network takes {self.views}')
        target = self.views // 2
        order = [target, *(i for i in range(self.views) if i != target)]
        features = [2 * frames[:, order].flatten(1, 2) - 1]
        for layer in self.layers:
            features.append(layer(features[-1]))
        return features

    def decode(self, features: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Compute what :meth:`forward` returns from the features of :meth:`encode`."""
        poses = _small_mean(self.head(features[-1])).unflatten(1, (self.views - 1, 6))
        return poses, self.explainability(features) if self.explainability else []


def _small_mean(x: Tensor) -> Tensor:
    # Small outputs let the training start near no motion, where warps stay inside the image.
    return 0.01 * x.float().mean((2, 3))


NETWORKS = {'light': PoseNet, 'resnet': ResNetPose, 'sfm': SfmPoseNet}
"""The networks by their names in the settings."""


def make_pose(
    network: str,
    encoder: str = 'resnet18',
    weights: str = '',
    views: int = 3,
    explainability: bool = False,
    batch_norm: bool = False,
    symmetric: bool = False,
) -> PairNet | SfmPoseNet:
    """Make a pose network.

    Args:
        network: 'light' (:class:`PoseNet`), 'resnet' (:class:`ResNetPose`) or 'sfm'
            (:class:`SfmPoseNet`).
        encoder, weights: for resnet; see :func:`train.networks.encoder.make_encoder`.
        views, explainability, batch_norm: for sfm; see :class:`SfmPoseNet`.
        symmetric: whether to wrap it in :class:`SymmetricPose`; only for networks of pairs.

    Raises:
        ValueError: if ``network`` is unknown.
    """
    net: PairNet | SfmPoseNet
    if network == 'light':
        net = PoseNet()
    elif network == 'resnet':
        net = ResNetPose(encoder, weights)
    elif network == 'sfm':
        net = SfmPoseNet(views, explainability, batch_norm)
    else:
        raise ValueError(f"pose network '{network}', must be light, resnet or sfm")
    if symmetric:
        net = SymmetricPose(cast(PairNet, net))
    # The format in which convolutions run fastest.
    return net.to(memory_format=torch.channels_last)
