"""Both networks and the losses that train them together, as a Lightning module."""

from __future__ import annotations

from collections.abc import Sequence

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor

from train.config import Config
from train.data import IGNORE
from train.geometry import invert_transform, scale_intrinsics, transform_from_pose, warp
from train.losses.photometric import minimum_reprojection, photometric_error
from train.losses.smoothness import edge_aware_smoothness
from train.networks.perception import PerceptionNet, resize
from train.networks.pose import PoseNet

CLASSES = 19


class StreetSystem(lightning.LightningModule):
    """Self-supervised depth and pose with supervised semantics.

    Loss = sum_s 2^-s (photometric_s + w_smooth smoothness_s) + w_sem cross-entropy, over the
    disparity outputs s = 0 (finest), 1, 2 (FSRE-Depth, section 3.1).
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.perception = PerceptionNet(CLASSES, config.pretrained)
        self.pose = PoseNet()
        if not config.train_perception:
            self.perception.requires_grad_(False)
        self.train()  # Lightning leaves the modes as it finds them

    def train(self, mode: bool = True) -> StreetSystem:
        """Switch to training mode, but for a perception network that does not learn."""
        super().train(mode)
        if not self.config.train_perception:
            self.perception.eval()
        return self

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Every term of the loss on a batch of :class:`train.data.TripletDataset`.

        Returns:
            Scalars: photometric, smoothness, semantic, and their weighted sum, loss; and
            moving, the share of pixels that the motion explains better than no motion.
        """
        config = self.config
        images, inputs = (batch[k].float() / 255 for k in ('images', 'inputs'))
        disparities, logits = self.perception(inputs[:, 1])
        transforms = self.transforms(inputs)

        with torch.autocast(self.device.type, enabled=False):
            photometric = smoothness = images.new_zeros(())
            moving = []
            for s, disparity in enumerate(disparities):
                loss, mask = self.view_synthesis(disparity, images, transforms,
                                                 batch['intrinsics'])
                photometric = photometric + loss / 2 ** s
                moving.append(mask.float().mean())
                target = F.adaptive_avg_pool2d(images[:, 1], disparity.shape[2:])
                smoothness = smoothness + edge_aware_smoothness(disparity, target) / 2 ** s
            semantic = self.cross_entropy(logits.float(), batch['labels'])
        loss = photometric + config.smoothness * smoothness + config.semantic * semantic
        return {'loss': loss, 'photometric': photometric, 'smoothness': smoothness,
                'semantic': semantic, 'moving': torch.stack(moving).mean()}

    @staticmethod
    def view_synthesis(disparity: Tensor, images: Tensor, transforms: Sequence[Tensor],
                       intrinsics: Tensor) -> tuple[Tensor, Tensor]:
        """Photometric loss at the disparity's own resolution, as SfMLearner (section 3.2) does.

        Args:
            disparity: (B, 1, h, w) of the target.
            images: (B, 3, 3, H, W) previous, target, next.
            transforms: T_previous_target, T_next_target (B, 4, 4).
            intrinsics: (B, 3, 3) at the images' size.

        Returns:
            As :func:`minimum_reprojection`.
        """
        height, width = disparity.shape[2:]
        previous, target, following = (
            F.adaptive_avg_pool2d(image, (height, width)) for image in images.unbind(1))
        intrinsics = scale_intrinsics(
            intrinsics, width / images.shape[-1], height / images.shape[-2])
        sources = (previous, following)
        identity = torch.minimum(*(photometric_error(s, target) for s in sources))
        # Where motion and no motion explain equally well, a random choice avoids a bias.
        identity = identity + torch.rand_like(identity) * 1e-5
        warps = [warp(image, 1 / disparity, transform, intrinsics)
                 for image, transform in zip(sources, transforms, strict=True)]
        return minimum_reprojection(*zip(*warps, strict=True), identity, target)

    def transforms(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """T_previous_target and T_next_target (B, 4, 4) of image triplets (B, 3, 3, H, W)."""
        batch = len(inputs)
        # Both pairs in temporal order, as the robot sees them, in one pass.
        poses = self.pose(torch.cat([inputs[:, 0], inputs[:, 1]]),
                          torch.cat([inputs[:, 1], inputs[:, 2]]))
        transforms = transform_from_pose(poses)
        return transforms[:batch], invert_transform(transforms[batch:])

    @staticmethod
    def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy at the logits' resolution; 0 for data without labels."""
        labels = F.interpolate(labels[:, None].float(), logits.shape[2:], mode='nearest-exact')
        labels = labels[:, 0].long()
        if (labels == IGNORE).all():
            return logits.sum() * 0
        return F.cross_entropy(logits, labels, ignore_index=IGNORE)

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """One step."""
        losses = self.losses(batch)
        self.log_dict({f'train/{k}': v for k, v in losses.items()}, prog_bar=False)
        self.log('photo', losses['photometric'], prog_bar=True)
        self.log('ce', losses['semantic'], prog_bar=True)
        return losses['loss']

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        """Median-scaled Abs Rel and road IoU where there is ground truth, and the losses."""
        losses = self.losses(batch)
        size = len(batch['images'])
        self.log('val/photometric', losses['photometric'], batch_size=size)
        disparities, logits = self.perception(batch['images'][:, 1].float() / 255)
        shape = batch['depth'].shape[1:]
        predicted = 1 / resize(disparities[0], *shape)[:, 0]
        for depth, truth in zip(predicted, batch['depth'], strict=True):
            valid = (truth > 1e-3) & (truth < 80)
            if valid.any():
                ratio = truth[valid].median() / depth[valid].median()
                error = (depth[valid] * ratio - truth[valid]).abs() / truth[valid]
                self.log('val/abs_rel', error.mean(), batch_size=1, prog_bar=True)
        if (batch['labels'] != IGNORE).any():
            labels = resize(logits, *shape).argmax(1)
            road, truth = labels == 0, batch['labels'] == 0
            known = batch['labels'] != IGNORE
            union = ((road | truth) & known).sum().clamp(min=1)
            self.log('val/road_iou', (road & truth).sum() / union, batch_size=size, prog_bar=True)

    def configure_optimizers(self):
        """Adam with a short linear warm-up and a cosine decay to a twentieth."""
        optimizer = torch.optim.AdamW(
            [p for p in self.parameters() if p.requires_grad], self.config.learning_rate,
            weight_decay=1e-4)
        warm_up = min(200, self.config.steps // 10 + 1)
        schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [
            torch.optim.lr_scheduler.LinearLR(optimizer, 0.05, total_iters=warm_up),
            torch.optim.lr_scheduler.CosineAnnealingLR(
                optimizer, max(1, self.config.steps - warm_up),
                eta_min=self.config.learning_rate / 20),
        ], [warm_up])
        return {'optimizer': optimizer,
                'lr_scheduler': {'scheduler': schedule, 'interval': 'step'}}
