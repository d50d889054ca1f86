"""The layers of SfMLearner's networks: convolutions with ReLU.

The paper uses batch norm (section 4), with which they learn many times faster. Its authors' later
code does without, and reports better depth after 200,000 steps.
"""

from __future__ import annotations

from torch import Tensor, nn


def conv_relu(
    in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, batch_norm: bool = False
) -> nn.Sequential:
    """Convolution with zero padding on all sides, batch norm if asked for, ReLU.

    TensorFlow pads strided convolutions of even sizes less above and left than below and right: its
    networks equal ours with all images and kernels mirrored.
    """
    layer = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=not batch_norm)
    return _activated(layer, batch_norm)


def deconv_relu(
    in_channels: int, out_channels: int, kernel: int = 3, batch_norm: bool = False
) -> nn.Sequential:
    """Transposed convolution to twice the size, batch norm if asked for, ReLU."""
    layer = nn.ConvTranspose2d(
        in_channels, out_channels, kernel, 2, kernel // 2, output_padding=1, bias=not batch_norm
    )
    return _activated(layer, batch_norm)


def _activated(layer: nn.Conv2d | nn.ConvTranspose2d, batch_norm: bool) -> nn.Sequential:
    norm = [nn.BatchNorm2d(layer.out_channels)] if batch_norm else []
    return nn.Sequential(layer, *norm, nn.ReLU(inplace=True))


def crop_like(x: Tensor, reference: Tensor) -> Tensor:
    """Cut (B, C, 2 ceil(h/2), 2 ceil(w/2)) to the reference's (h, w).

    For these sizes it is the same as the paper's nearest-neighbour resize.
    """
    height, width = reference.shape[2:]
    return x if x.shape[2:] == (height, width) else x[:, :, :height, :width]


def init_xavier(net: nn.Module) -> None:
    """Xavier-uniform weights and zero biases, TensorFlow's defaults."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
