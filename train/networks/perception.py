"""The depth networks, alone or with semantics from one shared encoder."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn

from train.networks.attention import CrossTaskAttention, FusedAttention
from train.networks.decoder import Decoder
from train.networks.dispnet import DispNet
from train.networks.encoder import ImageEncoder, make_encoder
from train.networks.precision import keep_depthwise_single
from train.networks.prediction import (
    DEFAULT_RANGE,
    MAX_DEPTH,
    MIN_DEPTH,
    DepthNet,
    DepthRange,
    Prediction,
    resize,
)
from train.networks.unet import Stage, UNetDecoder

__all__ = [
    'DEFAULT_RANGE',
    'MAX_DEPTH',
    'MIN_DEPTH',
    'NETWORKS',
    'DepthNet',
    'DepthRange',
    'FsreNet',
    'PerceptionNet',
    'Prediction',
    'fuse_for_inference',
    'make_perception',
    'resize',
]


def fuse_for_inference(net: DepthNet, semantics: bool = True) -> DepthNet:
    """A copy of a depth network in eval mode, with only what its finest disparity needs.

    Args:
        net: network from :func:`make_perception`.
        semantics: whether to keep the class logits.

    Returns:
        A faster network whose Prediction has the same finest disparity and logits (or None). It
        cannot be trained.
    """
    net = copy.deepcopy(net).eval().requires_grad_(False)
    net.prune(semantics)
    return net.to(memory_format=torch.channels_last)


class PerceptionNet(DepthNet):
    """The light network: a shared encoder, a depth decoder and a semantic decoder.

    Args:
        encoder: encoder from :func:`train.networks.encoder.make_encoder`.
        classes: number of semantic classes.
        semantics: whether there is a semantic decoder.
    """

    outputs = ('logits',)
    ranged = True

    def __init__(self, encoder: ImageEncoder, classes: int = 19, semantics: bool = True) -> None:
        super().__init__()
        self.encoder: nn.Module = encoder
        self.depth = Decoder(encoder.channels, 1, heads=3)
        self.semantics = Decoder(encoder.channels, classes, heads=1) if semantics else None

    def forward(self, image: Tensor) -> Prediction:
        """Predict from images (B, 3, H, W) in 0..1; H and W multiples of 32.

        Returns:
            Disparities at 1/2, 1/4 and 1/8 of the image size, see
            :class:`~train.networks.prediction.DepthRange`, and class logits at 1/2.
        """
        features = self.encoder(image)
        return Prediction(
            [self.depth_range.disparity(x) for x in self.depth(features)],
            self.semantics(features)[0] if self.semantics else None,
            [],
        )

    def prune(self, semantics: bool) -> None:
        """Drop what the finest disparity (and the logits) do not need."""
        self.depth.heads = self.depth.heads[:1]
        if not semantics:
            self.semantics = None


class FsreNet(DepthNet):
    """FSRE-Depth: a shared encoder and two decoders that attend to each other.

    Args:
        encoder: encoder from :func:`train.networks.encoder.make_encoder`.
        classes: number of semantic classes.
        semantics: whether there is a semantic decoder.
        attention: whether each decoder refines its features by the other's at 1/16, 1/8 and 1/4 of
            the image size; needs ``semantics``.
    """

    outputs = ('logits', 'features')
    ranged = True
    attends = True
    min_size = 64

    def __init__(
        self,
        encoder: ImageEncoder,
        classes: int = 19,
        semantics: bool = True,
        attention: bool = False,
    ) -> None:
        super().__init__()
        self.encoder: nn.Module = encoder
        self.depth = UNetDecoder(encoder.channels, 1, heads=4)
        self.semantics = UNetDecoder(encoder.channels, classes, heads=1) if semantics else None
        widths = UNetDecoder.widths[:3] if attention else ()
        self.refine_depth = nn.ModuleList(CrossTaskAttention(width) for width in widths)
        self.refine_semantics = nn.ModuleList(CrossTaskAttention(width) for width in widths)

    def forward(self, image: Tensor) -> Prediction:
        """Predict from images (B, 3, H, W) in 0..1; H and W multiples of 32.

        Returns:
            Disparities at 1/1, 1/2, 1/4 and 1/8 of the image size, see
            :class:`~train.networks.prediction.DepthRange`; class logits at 1/1; and the depth
            decoder's features, after attention, at 1/2, 1/4 and 1/8 (32, 64, 128 channels).
        """
        features = self.encoder(image)
        skips = [*features[3::-1], None]
        depth = semantic = features[4]
        semantic_stages = self.semantics.stages if self.semantics else ()
        decoded: list[Tensor] = []
        for i, (stage, skip) in enumerate(zip(self.depth.stages, skips, strict=True)):
            depth = stage(depth, skip)
            if i < len(semantic_stages):
                semantic = semantic_stages[i](semantic, skip)
            before = depth, semantic
            if i < len(self.refine_depth):
                depth = self.refine_depth[i](*before)
            if i < len(self.refine_semantics):
                semantic = self.refine_semantics[i](*before[::-1])
            decoded.insert(0, depth)
        logits = None
        if self.semantics and len(self.semantics.heads):
            logits = self.semantics.heads[0](semantic)
        return Prediction(
            [
                self.depth_range.disparity(head(x))
                for head, x in zip(self.depth.heads, decoded, strict=False)
            ],
            logits,
            decoded[1:4],
        )

    def prune(self, semantics: bool) -> None:
        """Drop what the finest disparity (and the logits) do not need, and merge attention."""
        self.depth.heads = self.depth.heads[:1]
        if not semantics:
            # Depth depends on semantics only through its own attention.
            if len(self.refine_depth):
                assert self.semantics is not None  # attention needs it
                self.semantics.stages = self.semantics.stages[:3]
                self.semantics.heads = self.semantics.heads[:0]
                self.refine_semantics = self.refine_semantics[:2]
            else:
                self.semantics = None
        for modules, decoder in (
            (self.refine_depth, self.depth),
            (self.refine_semantics, self.semantics),
        ):
            for i, module in enumerate(modules):
                assert decoder is not None  # attention needs both
                modules[i] = fused = FusedAttention(cast(CrossTaskAttention, module))
                # Only the next stage reads the refined features; attention reads unrefined ones.
                fused.move_out_into(cast(Stage, decoder.stages[i + 1]).reduce)


NETWORKS: dict[str, type[DepthNet]] = {'light': PerceptionNet, 'fsre': FsreNet, 'dispnet': DispNet}
"""The networks by their names in the settings."""

WITH_ATTENTION = (
    f'network: {" or ".join(n for n, net in NETWORKS.items() if net.attends)} with semantics: true'
)


def make_perception(
    network: str,
    encoder: str = 'resnet18',
    weights: str = '',
    classes: int = 19,
    semantics: bool = True,
    attention: bool = False,
    batch_norm: bool = False,
    depth_range: DepthRange = DEFAULT_RANGE,
) -> DepthNet:
    """Make a depth network; its ``forward(image)`` returns a Prediction.

    Args:
        network: 'light' (:class:`PerceptionNet`), 'fsre' (:class:`FsreNet`) or 'dispnet'
            (:class:`~train.networks.dispnet.DispNet`, for which only ``batch_norm`` has an effect).
        encoder, weights: see :func:`train.networks.encoder.make_encoder`.
        classes: number of semantic classes.
        semantics: whether there is a semantic decoder.
        attention: whether the decoders of fsre have cross-task attention.
        batch_norm: whether dispnet has batch norm; see :mod:`train.networks.layers`.
        depth_range: depths that light and fsre can predict; dispnet's range is the paper's.

    Raises:
        FileNotFoundError: if the encoder's weights are missing and cannot be downloaded.
        ValueError: if the arguments are unknown or contradict each other.
    """
    if network not in NETWORKS:
        *others, last = NETWORKS
        raise ValueError(f"depth network '{network}', must be {', '.join(others)} or {last}")
    if attention and not (NETWORKS[network].attends and semantics):
        raise ValueError(f'attention needs {WITH_ATTENTION}')
    if network == 'dispnet':
        net = DispNet(batch_norm)
    elif network == 'light':
        net = PerceptionNet(make_encoder(encoder, weights), classes, semantics)
    else:
        net = FsreNet(make_encoder(encoder, weights), classes, semantics, attention)
    net.depth_range = depth_range
    keep_depthwise_single(net)
    # The format in which convolutions run fastest.
    return net.to(memory_format=torch.channels_last)
