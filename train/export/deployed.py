"""The networks as a robot runs them: uint8 images in; depth, class ids and poses out."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from train.geometry import rotation_from_euler
from train.networks.perception import resize


class DeployedPerception(nn.Module):
    """Takes a uint8 image; returns depth and, if the network has them, class ids.

    Args:
        net: network from :func:`train.networks.perception.make_perception`.
        scale: factor from model units to the unit of the output, such as metres.
        size: (height, width) of the network; ``None``: the size of the images.
    """

    def __init__(self, net: nn.Module, scale: float, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.net, self.scale, self.size = net, scale, size

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Image uint8 (1, h, w, 3) -> depth float32 (H, W), labels uint8 (H, W).

        (H, W) is the network size.
        """
        image = _normalised(image, self.size)
        size = image.shape[2:]
        prediction = self.net(image)
        # As in training, disparity is interpolated, not depth.
        depth = self.scale / resize(prediction.disparities[0], *size)[0, 0]
        if prediction.logits is None:
            return (depth,)
        # Classes in the last dimension: runtimes find the maximum fastest there.
        logits = resize(prediction.logits, *size).permute(0, 2, 3, 1)
        return depth, logits.argmax(3)[0].to(torch.uint8)


class DeployedPose(nn.Module):
    """Takes two uint8 images; returns their relative pose.

    Args:
        net: network from :func:`train.networks.pose.make_pose`.
        scale, size: as for :class:`DeployedPerception`.
    """

    def __init__(self, net: nn.Module, scale: float, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.net, self.scale, self.size = net, scale, size

    def forward(self, previous: Tensor, current: Tensor) -> Tensor:
        """Images uint8 (1, h, w, 3) -> pose float32 (6,).

        The pose is ``depth_ros.inference.contract.POSE_CONVENTION``.
        """
        frames = _normalised(previous, self.size), _normalised(current, self.size)
        if self.net.pairs:
            rotation, translation = self.net(*frames)[0].split(3)
        else:
            poses, _ = self.net(torch.stack(frames, 1))
            translation, angles = poses[0, 0, :3], poses[0, :, 3:]
            rotation = vector_from_rotation(rotation_from_euler(angles))[0]
        return torch.cat([rotation, self.scale * translation])


def vector_from_rotation(rotation: Tensor) -> Tensor:
    """Rotation vectors (B, 3), radians, of rotation matrices (B, 3, 3) of less than 120 degrees.

    With the quaternion (w, v) the vector is 2 atan(|v| / w) v / |v|. This uses only operators that
    every runtime has.
    """
    trace = rotation[:, 0, 0] + rotation[:, 1, 1] + rotation[:, 2, 2]
    w = (1 + trace).sqrt() / 2
    v = torch.stack(
        [
            rotation[:, 2, 1] - rotation[:, 1, 2],
            rotation[:, 0, 2] - rotation[:, 2, 0],
            rotation[:, 1, 0] - rotation[:, 0, 1],
        ],
        1,
    ) / (4 * w[:, None])
    length = ((v * v).sum(1, keepdim=True) + 1e-20).sqrt()
    return 2 * torch.atan(length / w[:, None]) / length * v


def _normalised(image: Tensor, size: tuple[int, int] | None) -> Tensor:
    """uint8 (1, h, w, 3) -> float32 0..1 (1, 3, H, W), resized as ``ImageFit.to_network`` does.

    ``size`` is (H, W); ``None``: the size of the image.
    """
    # TensorRT transposes floats but not bytes, so cast first.
    image = image.float().permute(0, 3, 1, 2)
    height, width = image.shape[2:]
    if size not in (None, (height, width)):
        factor = 1
        while (
            min(height // size[0], width // size[1]) >= 2 * factor
            and height % (2 * factor) == width % (2 * factor) == 0
        ):
            factor *= 2
        if factor > 1:
            image = avg_pool2d(image, factor)
        # The network was trained on whole grey levels; fractions change its depth by a percent.
        image = resize(image, *size).round()
    return image / 255
