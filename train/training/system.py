"""The networks and the losses that train them together, as a Lightning module."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from textwrap import shorten
from typing import NamedTuple

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor

from train.classes import CITYSCAPES
from train.geometry import (
    invert_transform,
    scale_intrinsics,
    transform_from_euler_pose,
    transform_from_pose,
)
from train.losses.consistency import camera_height_loss, geometry_consistency, velocity_loss
from train.losses.explainability import explainability_loss, explainability_weights
from train.losses.semantic import IGNORE, cross_entropy
from train.losses.smoothness import edge_aware_smoothness, second_order_smoothness
from train.losses.triplet import semantic_triplet_loss
from train.losses.view_synthesis import Synthesis, ViewSynthesis
from train.networks.intrinsics import IntrinsicsHead
from train.networks.perception import Prediction, make_perception, resize
from train.networks.pose import SfmPoseNet, make_pose
from train.training.config import Config

ROAD = 0
MOVABLE = (11, 12, 13, 14, 15, 16, 17, 18)
"""Class ids of what can move by itself: person to bicycle."""


class Motion(NamedTuple):
    """What the pose network says of a batch.

    Attributes:
        transforms: per source, T_source_target (B, 4, 4).
        intrinsics: (B, 3, 3) at the images' size, given or learnt.
        masks: per scale, finest first, explainability logits (B, 2 sources, h, w).
    """

    transforms: list[Tensor]
    intrinsics: Tensor
    masks: list[Tensor]


class Losses(NamedTuple):
    """What :meth:`System.losses` returns.

    Attributes:
        terms: scalars by name, and ``loss``, their weighted sum.
        prediction: of the target images.
        synthesis: of the finest disparity.
        weights: per source the trust in it (B, 1, h, w) at the finest scale, or ``None``.
    """

    terms: dict[str, Tensor]
    prediction: Prediction
    synthesis: Synthesis
    weights: list[Tensor] | None


class System(lightning.LightningModule):
    """Depth, semantics and motion from video.

    Loss = sum_s (d^s photometric_s + 2^-s w smoothness_s) + the other terms with their weights,
    over the disparities s = 0 (finest), 1, ...; d is 1/2 in FSRE-Depth and 1 in SfMLearner.

    Args:
        config: settings of the training.
        fresh: start the encoders from the weights that ``config`` names; false where those of a
            checkpoint will replace them.
    """

    def __init__(self, config: Config, fresh: bool = True) -> None:
        super().__init__()
        self.config = config
        self.trained_steps = 0
        self.perception = make_perception(
            config.network,
            config.encoder,
            config.weights if fresh else '',
            len(CITYSCAPES),
            config.semantics,
            config.attention,
            config.batch_norm,
        )
        self.pose = make_pose(
            config.pose_network,
            config.pose_encoder,
            config.pose_weights if fresh else '',
            config.views,
            config.explainability > 0,
            config.batch_norm,
        )
        self.camera = None
        if config.learn_intrinsics:
            self.camera = IntrinsicsHead(self.pose.feature_channels)
        if not config.train_perception:
            self.perception.requires_grad_(False)
        self.save_hyperparameters(asdict(config))
        self.train()  # Lightning leaves the modes as it finds them

    def train(self, mode: bool = True) -> System:
        """Switch to training mode, but for a perception network that does not learn."""
        super().train(mode)
        if not self.config.train_perception:
            self.perception.eval()
        return self

    @property
    def target(self) -> int:
        """Index of the target among the frames of a sample."""
        return self.config.views // 2

    # Loss

    def losses(self, batch: dict[str, Tensor], noise: torch.Generator | None = None) -> Losses:
        """Every term of the loss on a batch of :class:`train.data.dataset.FrameDataset`.

        Args:
            batch: as collated.
            noise: see :class:`ViewSynthesis`.

        Raises:
            ValueError: if no pixel of the batch is seen by any source image.
        """
        config = self.config
        images, inputs = (batch[k].float() / 255 for k in ('images', 'inputs'))
        target, size = images[:, self.target], images.shape[-2:]
        judged = bool(config.consistency or config.moving == 'consistency')
        prediction, source_disparities = self._predict(inputs, with_sources=judged)
        motion = self.motion(inputs, batch['intrinsics'])

        with torch.autocast(self.device.type, enabled=False):
            terms: dict[str, Tensor] = {}
            disparities = [d.float() for d in prediction.disparities]
            weights: list[list[Tensor]] = []  # by scale, then source
            if config.explainability:
                weights = [explainability_weights(m.float()) for m in motion.masks]
                terms['explainability'] = sum(explainability_loss(m.float()) for m in motion.masks)
            if judged:
                terms['consistency'], consistent = self._consistency(
                    resize(disparities[0], *size), source_disparities, motion
                )
                if config.moving == 'consistency':
                    weights = [consistent] * len(disparities)
            keep = None
            if config.moving == 'semantic':
                keep = ~torch.isin(batch['labels'], batch['labels'].new_tensor(MOVABLE))[:, None]

            views: dict[tuple[int, ...], ViewSynthesis] = {}
            photometric, finest = [], None
            for s, disparity in enumerate(disparities):
                shape = tuple(size if config.full_resolution else disparity.shape[2:])
                if shape not in views:
                    views[shape] = self._view_synthesis(images, motion, keep, noise, shape)
                synthesis = views[shape](disparity, weights[s] if weights else None)
                photometric.append(synthesis.loss * config.scale_decay**s)
                finest = finest or synthesis  # the images of the others would only take memory
            terms['photometric'] = sum(photometric)
            del views, synthesis
            terms['smoothness'] = sum(
                self._smoothness(d, target) / 2**s for s, d in enumerate(disparities)
            )
            if prediction.logits is not None:
                terms['semantic'] = cross_entropy(prediction.logits.float(), batch['labels'])
            if config.triplet:
                terms['triplet'], _ = semantic_triplet_loss(
                    prediction.features, batch['labels'], border=config.triplet_border
                )
            if config.velocity:
                terms['velocity'] = velocity_loss(motion.transforms, batch['distance'])
            if config.camera_height:
                terms['height'] = camera_height_loss(
                    resize(disparities[0], *size),
                    batch['labels'] == ROAD,
                    motion.intrinsics,
                    disparities[0].new_full((len(images),), config.camera_height),
                )
        factors = {'photometric': 1.0, 'height': config.height_weight}
        terms['loss'] = sum(factors.get(n, getattr(config, n, None)) * v for n, v in terms.items())
        return Losses(terms, prediction, finest, weights[0] if weights else None)

    def _predict(self, inputs: Tensor, with_sources: bool) -> tuple[Prediction, list[Tensor]]:
        """Prediction of the target, and the sources' finest disparities at the images' size."""
        batch = len(inputs)
        if not with_sources:
            return self.perception(inputs[:, self.target]), []
        # One pass: batch norm sees all frames, as the robot will.
        order = [self.target, *self._sources()]
        whole = self.perception(torch.cat([inputs[:, k] for k in order]))
        finest = resize(whole.disparities[0].float(), *inputs.shape[-2:])
        return Prediction(
            [d[:batch] for d in whole.disparities],
            None if whole.logits is None else whole.logits[:batch],
            [f[:batch] for f in whole.features],
        ), list(finest[batch:].split(batch))

    def _sources(self) -> list[int]:
        return [k for k in range(self.config.views) if k != self.target]

    def _view_synthesis(
        self,
        images: Tensor,
        motion: Motion,
        keep: Tensor | None,
        noise: torch.Generator | None,
        size: tuple[int, ...],
    ) -> ViewSynthesis:
        """The photometric term of images (B, views, 3, H, W), shrunk to ``size``."""
        config, (height, width) = self.config, images.shape[-2:]
        frames, intrinsics = images.unbind(1), motion.intrinsics
        if size != (height, width):
            # Pixel areas, as in SfMLearner.
            frames = [F.interpolate(x, size, mode='area') for x in frames]
            intrinsics = scale_intrinsics(intrinsics, size[1] / width, size[0] / height)
            if keep is not None:
                keep = F.interpolate(keep.float(), size, mode='nearest-exact') > 0
        return ViewSynthesis(
            frames[self.target],
            [frames[k] for k in self._sources()],
            motion.transforms,
            intrinsics,
            ssim_weight=config.ssim,
            reduction=config.reduction,
            automask=config.automask,
            keep=keep,
            validity=config.validity,
            noise=noise,
        )

    def _smoothness(self, disparity: Tensor, target: Tensor) -> Tensor:
        """Smoothness of a disparity at its own scale."""
        if self.config.smoothness_order == 2:
            return second_order_smoothness(disparity)
        return edge_aware_smoothness(
            disparity, F.interpolate(target, disparity.shape[2:], mode='area')
        )

    @staticmethod
    def _consistency(
        disparity: Tensor, source_disparities: list[Tensor], motion: Motion
    ) -> tuple[Tensor, list[Tensor]]:
        """Mean inconsistency of the target's depth with each source's, and each one's weights."""
        losses, weights = zip(
            *(
                geometry_consistency(disparity, source, transform, motion.intrinsics)
                for source, transform in zip(source_disparities, motion.transforms, strict=True)
            ),
            strict=True,
        )
        return torch.stack(losses).mean(), [w.detach() for w in weights]

    # Motion

    def transforms(self, frames: Tensor) -> Tensor:
        """T_source_target (B, views - 1, 4, 4) of frames (B, views, 3, H, W) in 0..1."""
        return torch.stack(self.motion(frames).transforms, 1)

    def motion(self, frames: Tensor, intrinsics: Tensor | None = None) -> Motion:
        """What the pose network says of frames.

        Args:
            frames: (B, views, 3, H, W) in 0..1, in temporal order.
            intrinsics: (B, 3, 3) at this size, as known; learnt ones take their place.

        Raises:
            ValueError: if the intrinsics are unknown and not to be learned.
        """
        batch, (height, width) = len(frames), frames.shape[-2:]
        sources, masks = self._sources(), []
        if isinstance(self.pose, SfmPoseNet):
            features = self.pose.encode(frames)
            bottleneck = features[-1]
            poses, masks = self.pose.decode(features)
        else:
            # All pairs in temporal order, as the robot sees them, in one pass.
            pairs = [sorted((k, self.target)) for k in sources]
            bottleneck = self.pose.encode(
                torch.cat([frames[:, a] for a, _ in pairs]),
                torch.cat([frames[:, b] for _, b in pairs]),
            )
            poses = self.pose.decode(bottleneck)
        # Half precision would bend the rotations.
        with torch.autocast(self.device.type, enabled=False):
            if isinstance(self.pose, SfmPoseNet):
                transforms = [transform_from_euler_pose(p) for p in poses.unbind(1)]
            else:
                steps = transform_from_pose(poses).split(batch)
                transforms = [
                    step if k < self.target else invert_transform(step)
                    for k, step in zip(sources, steps, strict=True)
                ]
        if self.camera is not None:
            intrinsics = self.camera(bottleneck, width, height)
            intrinsics = intrinsics.unflatten(0, (-1, batch)).mean(0)  # over a sample's pairs
        elif intrinsics is not None and not intrinsics.isfinite().all():
            raise ValueError(
                'the data has sequences of unknown intrinsics: write them to their '
                'intrinsics.txt, or set learn_intrinsics: true'
            )
        return Motion(transforms, intrinsics, masks)

    # Training

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """One step."""
        terms = self.losses(batch, self._noise(self.global_step)).terms
        self.log_dict({f'train/{name}': value for name, value in terms.items()})
        self.log('loss', terms['loss'], prog_bar=True, logger=False)
        return terms['loss']

    def _noise(self, step: int) -> torch.Generator:
        """Random numbers that depend on the step only, so that a resumed training has the same."""
        generator = torch.Generator(self.device)
        return generator.manual_seed((self.config.seed << 32) + (step << 8) + self.global_rank)

    def on_validation_epoch_start(self) -> None:
        """Before each validation."""
        # Each a weighted sum and the sum of the weights.
        self._judged = {
            name: torch.zeros(2, device=self.device) for name in ('abs_rel', 'scale', 'road_iou')
        }

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        """The photometric error; Abs Rel (scaled by the medians), scale and IoU of the road where
        there is ground truth."""
        losses = self.losses(batch, self._noise(0))
        size = len(batch['images'])

        def judge(name: str, value: Tensor, weight: int = 1) -> None:
            self._judged[name] += weight * torch.stack([value, torch.ones_like(value)])

        self.log('val/photometric', losses.terms['photometric'], batch_size=size, sync_dist=True)
        shape = batch['depth'].shape[1:]
        predicted = 1 / resize(losses.prediction.disparities[0].float(), *shape)[:, 0]
        for depth, truth in zip(predicted, batch['depth'], strict=True):
            valid = (truth > 1e-3) & (truth < 80)
            if valid.any():
                ratio = truth[valid].median() / depth[valid].median()
                error = (depth[valid] * ratio - truth[valid]).abs() / truth[valid]
                judge('abs_rel', error.mean())
                judge('scale', ratio)
        known = batch['labels'] != IGNORE
        if losses.prediction.logits is not None and known.any():
            found = resize(losses.prediction.logits.float(), *shape).argmax(1)
            road, truth = found == ROAD, batch['labels'] == ROAD
            union = ((road | truth) & known).sum().clamp(min=1)
            judge('road_iou', (road & truth).sum() / union, size)

    def on_validation_epoch_end(self) -> None:
        """After each validation."""
        # All processes take part in every sum, also those that have seen no ground truth.
        for name, judged in self._judged.items():
            total, weight = self.trainer.strategy.reduce(judged, reduce_op='sum')
            if weight > 0:
                self.log(f'val/{name}', total / weight, sync_dist=True, prog_bar=name != 'scale')

    def configure_optimizers(self) -> dict:
        """AdamW (Adam without weight decay) and the schedule, both counted in steps."""
        config = self.config
        # The fused one undoes loss scaling by itself, which clipping would have to come after.
        fused = not (config.gradient_clip and config.precision == '16-mixed')
        optimizer = torch.optim.AdamW(
            [p for p in self.parameters() if p.requires_grad],
            config.learning_rate,
            weight_decay=config.weight_decay,
            fused=fused,
        )
        warm_up = min(200, config.steps // 10 + 1) if config.schedule == 'cosine' else 0

        def factor(step: int) -> float:
            done = step / config.steps
            if config.schedule == 'steps':  # FSRE-Depth: after 10 and 15 of 20 epochs
                return 1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01
            if config.schedule == 'cosine':
                if step < warm_up:
                    return 0.05 + 0.95 * step / warm_up
                progress = (step - warm_up) / max(1, config.steps - warm_up)
                return 0.05 + 0.95 * (1 + math.cos(math.pi * min(1.0, progress))) / 2
            return 1.0

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {'optimizer': optimizer, 'lr_scheduler': {'scheduler': schedule, 'interval': 'step'}}


def load_system(path: str | Path) -> System:
    """The networks of a checkpoint, in evaluation mode.

    Raises:
        ValueError: if the file is missing or no checkpoint of this version.
    """
    try:
        checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    except FileNotFoundError as error:
        raise ValueError(f"checkpoint '{path}' does not exist") from error
    except Exception as error:  # pickle, zip and torch each have their own
        raise ValueError(
            f"'{path}' is no checkpoint of python -m train fit; give best.ckpt or "
            'last.ckpt of a run'
        ) from error
    try:
        system = System(Config(**checkpoint['hyper_parameters']), fresh=False)
        system.load_state_dict(checkpoint['state_dict'])
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"checkpoint '{path}' is of another version of the training; use that version, or "
            f'train again ({shorten(str(error), 200)})'
        ) from error
    system.trained_steps = checkpoint['global_step']
    return system.eval()
