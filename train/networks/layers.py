"""The layers of SfMLearner's networks: convolutions with ReLU.

No batch norm: the paper had it, its authors' code took it out and reports better depth without.
"""

from __future__ import annotations

from torch import Tensor, nn


def conv_relu(in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1
              ) -> nn.Sequential:
    """Convolution with zero padding on all sides, ReLU.

    For even sizes TensorFlow pads strided ones less above and left than below and right: its
    networks are ours with all images and kernels mirrored.
    """
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2), nn.ReLU(inplace=True))


def deconv_relu(in_channels: int, out_channels: int, kernel: int = 3) -> nn.Sequential:
    """Transposed convolution to twice the size, ReLU."""
    return nn.Sequential(
        nn.ConvTranspose2d(in_channels, out_channels, kernel, 2, kernel // 2, output_padding=1),
        nn.ReLU(inplace=True))


def crop_like(x: Tensor, reference: Tensor) -> Tensor:
    """Cut (B, C, 2 ceil(h/2), 2 ceil(w/2)) to the reference's (h, w).

    From a size to the next smaller, this is what the paper's nearest-neighbour resize does.
    """
    height, width = reference.shape[2:]
    return x if x.shape[2:] == (height, width) else x[:, :, :height, :width]


def init_xavier(net: nn.Module) -> None:
    """Xavier-uniform weights and zero biases, TensorFlow's defaults."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
