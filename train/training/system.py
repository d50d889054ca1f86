"""The networks and the losses that train them together, as a Lightning module."""

from __future__ import annotations

import math
from dataclasses import asdict
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple, cast

import lightning
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from depth_ros.core.labels import UNLABELED
from depth_ros.inference.classes import CITYSCAPES, ROAD
from train.geometry import invert_transform, transform_from_euler_pose, transform_from_pose
from train.losses.points import judged_points
from train.losses.reduction import LossError
from train.losses.table import TERMS, needs
from train.losses.term import Step
from train.losses.view_synthesis import Synthesis
from train.networks.focal import focal_factor, pose_for_camera
from train.networks.intrinsics import IntrinsicsHead
from train.networks.perception import Prediction, make_perception, resize
from train.networks.pose import PairNet, SfmPoseNet, make_pose
from train.networks.prediction import Motion
from train.training.config import Config

METRICS = ('abs_rel', 'scale', 'road_iou', 'points_abs_rel', 'points_delta1')
"""What a validation measures where there is ground truth."""


class Losses(NamedTuple):
    """What :meth:`System.losses` returns.

    Attributes:
        terms: scalar terms by name, and ``loss``, their weighted sum.
        prediction: what the depth network predicts for the target images.
        synthesis: view synthesis with the finest disparity; ``None`` without the photometric term.
        weights: trust in each source, (B, 1, h, w) in 0..1 at the finest scale; ``None`` without
            explainability masks.
    """

    terms: dict[str, Tensor]
    prediction: Prediction
    synthesis: Synthesis | None
    weights: list[Tensor] | None


class System(lightning.LightningModule):
    """Depth, semantics and motion from video.

    The loss is the weighted sum of the terms in :mod:`train.losses.table`.

    Args:
        config: settings of the training.
        fresh: whether to load the encoders' initial weights that ``config`` names; false where a
            checkpoint will replace them.
    """

    def __init__(self, config: Config, fresh: bool = True) -> None:
        super().__init__()
        self.config = config
        self.trained_steps = 0
        self._lost = 0  # successive steps whose loss was not finite
        self._needed = {need.what for need in needs(config)}
        self.perception = make_perception(
            config.network,
            config.encoder,
            config.weights if fresh else '',
            len(CITYSCAPES),
            config.semantics,
            config.attention,
            config.batch_norm,
            config.depth_range,
        )
        self.pose = make_pose(
            config.pose_network,
            config.pose_encoder,
            config.pose_weights if fresh else '',
            config.views,
            'masks' in self._needed,
            config.batch_norm,
            config.symmetric,
        )
        self.camera: IntrinsicsHead | None = None
        if config.learn_intrinsics:
            self.camera = IntrinsicsHead(self.pose.feature_channels)
        if not config.train_perception:
            self.perception.requires_grad_(False)
        self._moves = config.learn_intrinsics or not self._needed.isdisjoint(
            ('transforms', 'masks')
        )
        # If only the pose network learns, and only from known motion, no depth is needed.
        self._sees = config.train_perception or any(
            term.weight_in(config) for term in TERMS if term.name != 'motion'
        )
        if not self._moves:
            self.pose.requires_grad_(False)
        self.metrics = nn.ModuleDict({name: MeanMetric() for name in METRICS})
        self.save_hyperparameters(asdict(config))
        self.train()  # Lightning does not change the modes of modules

    def train(self, mode: bool = True) -> System:
        """Switch to training mode, except for a perception network that does not learn."""
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
        """Compute every term of the loss.

        Args:
            batch: collated samples of :class:`train.data.dataset.FrameDataset`.
            noise: source of the random numbers; see
                :class:`train.losses.view_synthesis.ViewSynthesis`.

        Raises:
            ValueError: if no pixel of the batch is seen by any source image.
        """
        images, inputs = (batch[k].float() / 255 for k in ('images', 'inputs'))
        prediction, source_disparities = Prediction([], None, []), []
        if self._sees or not self.training:
            prediction, source_disparities = self._predict(
                inputs,
                focal_factor(batch['intrinsics'], self.config.focal),
                with_sources='source_disparities' in self._needed,
            )
        motion = Motion([], batch['intrinsics'], [])
        if self._moves:
            motion = self.motion(inputs, batch['intrinsics'])
        with torch.autocast(self.device.type, enabled=False):
            step = Step(
                settings=self.config,
                batch=batch,
                images=images,
                target=self.target,
                prediction=prediction,
                disparities=[d.float() for d in prediction.disparities],
                source_disparities=source_disparities,
                motion=motion,
                noise=noise,
            )
            terms, loss = {}, images.new_zeros(())
            for term in TERMS:
                if term.is_computed(step):
                    terms[term.name] = term.function(step)
                    loss = loss + term.weight_in(self.config) * terms[term.name]
            terms['loss'] = loss
        return Losses(terms, prediction, step.synthesis, step.trust)

    def _predict(
        self, inputs: Tensor, factor: Tensor, with_sources: bool
    ) -> tuple[Prediction, list[Tensor]]:
        """Prediction of the target, and the sources' finest disparities at the images' size.

        Args:
            inputs: (B, views, 3, H, W) in 0..1.
            factor: (B,) by which the network's depth is multiplied, see ``focal_factor``.
            with_sources: whether to predict the sources, too.
        """
        batch = len(inputs)
        # In one pass, so that batch norm sees all frames.
        order = [self.target, *self._sources()] if with_sources else [self.target]
        whole = self.perception(torch.cat([inputs[:, k] for k in order]))
        disparities = whole.disparities
        if self.config.focal:
            factor = factor.repeat(len(order))[:, None, None, None]
            disparities = [d / factor for d in disparities]
        if not with_sources:
            return whole._replace(disparities=disparities), []
        finest = resize(disparities[0].float(), *inputs.shape[-2:])
        return Prediction(
            [d[:batch] for d in disparities],
            None if whole.logits is None else whole.logits[:batch],
            [f[:batch] for f in whole.features],
        ), list(finest[batch:].split(batch))

    def _sources(self) -> list[int]:
        return [k for k in range(self.config.views) if k != self.target]

    # Motion

    def transforms(self, frames: Tensor) -> Tensor:
        """Estimate T_source_target (B, views - 1, 4, 4) of frames (B, views, 3, H, W) in 0..1."""
        return torch.stack(self._poses(frames, None)[0], 1)

    def motion(self, frames: Tensor, intrinsics: Tensor | None = None) -> Motion:
        """Estimate the motion between frames, and the camera's intrinsics if they are learned.

        Args:
            frames: (B, views, 3, H, W) in 0..1, in temporal order.
            intrinsics: (B, 3, 3) in pixels at this size; needed unless they are learned.

        Returns:
            The motion, with the learned or else the given intrinsics.

        Raises:
            ValueError: if the intrinsics are neither known nor learned.
        """
        batch, (height, width) = len(frames), frames.shape[-2:]
        transforms, masks, bottleneck = self._poses(frames, intrinsics)
        if self.camera is not None:
            learnt: Tensor = self.camera(bottleneck, width, height)
            # The mean over a sample's pairs.
            return Motion(transforms, learnt.unflatten(0, (-1, batch)).mean(0), masks)
        assert intrinsics is not None
        if self.config.focal:
            # What needs the camera does not count where it is unknown.
            known = intrinsics.isfinite().all(2).all(1)[:, None, None]
            intrinsics = torch.where(known, intrinsics, torch.eye(3, device=intrinsics.device))
        elif not intrinsics.isfinite().all():
            raise ValueError(
                'the data has sequences of unknown intrinsics: write them to their '
                'intrinsics.txt, or set learn_intrinsics: true'
            )
        return Motion(transforms, intrinsics, masks)

    def _poses(
        self, frames: Tensor, intrinsics: Tensor | None
    ) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Run the pose network.

        Args:
            frames: (B, views, 3, H, W) in 0..1, in temporal order.
            intrinsics: (B, 3, 3) at this size; ``None``: the camera that the network is made for.

        Returns:
            T_source_target (B, 4, 4) per source, explainability logits per scale, and the
            bottleneck features.
        """
        sources = self._sources()
        if self.pose.pairs:
            net = cast(PairNet, self.pose)
            # All pairs in temporal order, as the robot sees them, in one pass.
            pairs = [sorted((k, self.target)) for k in sources]
            bottleneck = net.encode(
                torch.cat([frames[:, a] for a, _ in pairs]),
                torch.cat([frames[:, b] for _, b in pairs]),
            )
            poses, masks = net.decode(bottleneck), []
        else:
            net = cast(SfmPoseNet, self.pose)
            features = net.encode(frames)
            bottleneck = features[-1]
            poses, masks = net.decode(features)
        # Half precision would bend the rotations.
        with torch.autocast(self.device.type, enabled=False):
            if not self.pose.pairs:
                return [transform_from_euler_pose(p) for p in poses.unbind(1)], masks, bottleneck
            if intrinsics is not None:
                cameras = intrinsics.repeat(len(sources), 1, 1)
                poses = pose_for_camera(poses, cameras, self.config.focal)
            steps = transform_from_pose(poses).split(len(frames))
            transforms = [
                step if k < self.target else invert_transform(step)
                for k, step in zip(sources, steps, strict=True)
            ]
        return transforms, masks, bottleneck

    # Training

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """Compute and log the loss of one step."""
        terms = self.losses(batch, self._noise(self.global_step)).terms
        self._check(terms)
        self.log_dict({f'train/{name}': value for name, value in terms.items()})
        self.log('loss', terms['loss'], prog_bar=True, logger=False)
        return terms['loss']

    def _check(self, terms: dict[str, Tensor]) -> None:
        """Stop the training at a loss that is not finite, before it spoils the weights.

        Raises:
            LossError: if the loss is not finite; the message names the terms.
        """
        if terms['loss'].isfinite():
            self._lost = 0
            return
        # In half precision the gradient scaler skips single steps that overflow.
        self._lost += 1
        if self._lost > (20 if self.config.precision == '16-mixed' else 0):
            wrong = [name for name, term in terms.items() if not term.isfinite()]
            raise LossError(f'the loss is {terms["loss"].item()} ({", ".join(wrong)})')

    def _noise(self, step: int) -> torch.Generator:
        """Random numbers that depend only on seed, step and process, also after a resume."""
        generator = torch.Generator(self.device)
        return generator.manual_seed((self.config.seed << 32) + (step << 8) + self.global_rank)

    def _metric(self, name: str) -> MeanMetric:
        return cast(MeanMetric, self.metrics[name])

    def on_validation_epoch_start(self) -> None:
        """Reset the metrics."""
        for name in METRICS:
            metric = self._metric(name)
            metric.reset()
            metric.update(0.0, 0.0)  # gives it a state even if this process sees no ground truth

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        """Log the photometric loss and, where there is ground truth, errors of a batch.

        These are: the motion loss; Abs Rel after median scaling, and that scale, for true depth up
        to 80 m; Abs Rel and delta < 1.25 on points of a reconstruction; and the IoU of the road.
        """
        losses = self.losses(batch, self._noise(0))
        size = len(batch['images'])
        if 'photometric' in losses.terms:
            self.log(
                'val/photometric', losses.terms['photometric'], batch_size=size, sync_dist=True
            )
        if 'motion' in losses.terms:
            self.log('val/motion', losses.terms['motion'], batch_size=size, sync_dist=True)
        shape = batch['depth'].shape[1:]
        disparity = resize(losses.prediction.disparities[0].float(), *shape)
        if 'points' in batch:
            for name, (value, count) in judged_points(disparity, batch['points']).items():
                self._metric(name).update(value, count)
        predicted = 1 / disparity[:, 0]
        for depth, truth in zip(predicted, batch['depth'], strict=True):
            valid = (truth > 1e-3) & (truth < 80)
            if valid.any():
                ratio = truth[valid].median() / depth[valid].median()
                error = (depth[valid] * ratio - truth[valid]).abs() / truth[valid]
                self._metric('abs_rel').update(error.mean())
                self._metric('scale').update(ratio)
        known = batch['labels'] != UNLABELED
        if losses.prediction.logits is not None and known.any():
            found = resize(losses.prediction.logits.float(), *shape).argmax(1)
            road, truth = found == ROAD, batch['labels'] == ROAD
            union = ((road | truth) & known).sum().clamp(min=1)
            self._metric('road_iou').update((road & truth).sum() / union, size)

    def on_validation_epoch_end(self) -> None:
        """Log the means over all processes."""
        for name in METRICS:
            value = self._metric(name).compute()  # every process must call this: they exchange sums
            if value.isfinite():  # at least one process has seen ground truth
                self.log(f'val/{name}', value, prog_bar=name != 'scale')

    def configure_optimizers(self) -> dict:
        """Make AdamW and the schedule of its learning rate, which counts steps."""
        config = self.config
        # Lightning cannot clip gradients in mixed precision if the optimiser is fused.
        fused = not (config.gradient_clip and config.precision.endswith('mixed'))
        optimizer = torch.optim.AdamW(
            [p for p in self.parameters() if p.requires_grad],
            config.learning_rate,
            weight_decay=config.weight_decay,
            fused=fused,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(schedule_factor, config))
        return {'optimizer': optimizer, 'lr_scheduler': {'scheduler': schedule, 'interval': 'step'}}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make a resumed training use the current learning rate and number of steps."""
        base = self.config.learning_rate
        for schedule in checkpoint['lr_schedulers']:
            rate = base * schedule_factor(self.config, schedule['last_epoch'])
            schedule['base_lrs'] = [base] * len(schedule['base_lrs'])
            schedule['_last_lr'] = [rate] * len(schedule['base_lrs'])
            for optimizer in checkpoint['optimizer_states']:
                for group in optimizer['param_groups']:
                    group.update(lr=rate, initial_lr=base)


def schedule_factor(config: Config, step: int) -> float:
    """Factor of the learning rate at a step."""
    done = step / config.steps
    if config.schedule == 'steps':  # FSRE-Depth: after 10 and 15 of 20 epochs
        return 1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01
    if config.schedule == 'cosine':
        warm_up = min(200, config.steps // 10 + 1)
        if step < warm_up:
            return 0.05 + 0.95 * step / warm_up
        progress = (step - warm_up) / max(1, config.steps - warm_up)
        return 0.05 + 0.95 * (1 + math.cos(math.pi * min(1.0, progress))) / 2
    return 1.0


def load_system(path: str | Path) -> System:
    """Load the networks of a checkpoint, in evaluation mode.

    Args:
        path: a checkpoint of ``python -m train fit``.

    Raises:
        ValueError: if the file is missing or is not a checkpoint of this version.
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
