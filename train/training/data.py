"""The data of a training: its loaders, and a check that it has what the losses need."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from typing import NamedTuple

import lightning
from torch.utils.data import DataLoader, DistributedSampler

from depth_ros.evaluation.structure import FILE
from train.data.augment import Augmentation
from train.data.dataset import FrameDataset, StepSampler, init_worker
from train.data.mixture import MixedDataset, make_dataset
from train.data.sequences import DataError
from train.losses.table import needs
from train.training.config import Config


class Data(lightning.LightningDataModule):
    """The loaders of a training.

    Samples depend only on the seed and the step, so a resumed training sees the same samples as an
    uninterrupted one.

    Args:
        config: settings of the training.

    Raises:
        DataError: if a data set has no usable sample, or lacks what a loss needs.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        augmentation = Augmentation(
            **{item.name: getattr(config, item.name) for item in fields(Augmentation)}
        )
        self.train = make_dataset(config.data, config, augmentation)
        self.val = make_dataset(config.val, config)
        check_needs(config, self.train)

    def train_dataloader(self) -> DataLoader:
        """Loader of the batches from the current step to the last."""
        config, trainer = self.config, self._lightning()
        sampler = StepSampler(
            len(self.train),
            config.batch_size // trainer.world_size,
            config.steps,
            config.seed,
            start_step=trainer.global_step,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )
        return DataLoader(
            self.train,
            batch_sampler=sampler,
            num_workers=config.workers,
            worker_init_fn=init_worker,
            pin_memory=trainer.strategy.root_device.type == 'cuda',
        )

    def _lightning(self) -> lightning.Trainer:
        assert self.trainer is not None  # Lightning sets it before it asks for the loaders
        return self.trainer

    def val_dataloader(self) -> DataLoader:
        """Loader of every validation sample once, shared among the processes."""
        trainer = self._lightning()
        sampler = None
        if trainer.world_size > 1:
            sampler = DistributedSampler(
                self.val, trainer.world_size, trainer.global_rank, shuffle=False
            )
        return DataLoader(
            self.val,
            max(1, self.config.batch_size // trainer.world_size),
            sampler=sampler,
            num_workers=self.config.workers,
            worker_init_fn=init_worker,
            persistent_workers=self.config.workers > 0,
        )


class Kind(NamedTuple):
    """A kind of ground truth that losses may need.

    Attributes:
        name: what messages call it.
        exists: function that tells whether a data set has any.
        missing: file or folder that a data set without it lacks, for an error message.
        remedy: how to get it, for an error message.
    """

    name: str
    exists: Callable[[FrameDataset | MixedDataset], bool]
    missing: str
    remedy: str


def _has_distances(data: FrameDataset | MixedDataset) -> bool:
    return any(
        math.isfinite(s.distance(i, i + 1))
        for s in data.sequences
        for i in range(len(s.images) - 1)
    )


KINDS = {
    'labels': Kind(
        'labels',
        lambda data: data.has('semantics'),
        'a folder semantics',
        "make them by 'python -m train label'",
    ),
    'distance': Kind(
        'distances',
        _has_distances,
        'an odometry.txt or speed.txt',
        'prepare a recording with wheel odometry or GPS',
    ),
    'depth': Kind(
        'true depth',
        lambda data: data.has('depth'),
        'a folder depth',
        "render a street by 'python -m train synthesize'",
    ),
    'points': Kind(
        'points of a reconstruction',
        lambda data: any((s.folder / FILE).exists() for s in data.sequences),
        f'a {FILE}',
        "make it by 'python -m train structure'",
    ),
    'motion': Kind(
        'known motion',
        lambda data: any(s.poses is not None or (s.folder / FILE).exists() for s in data.sequences),
        f'a {FILE} or poses.txt',
        "make it by 'python -m train structure'",
    ),
}
"""Kinds of ground truth, by ``what`` of a loss's :class:`~train.losses.term.Need`."""


def check_needs(config: Config, data: FrameDataset | MixedDataset) -> None:
    """Check that the data has what the losses need; otherwise they would stay 0.

    Raises:
        DataError: if it lacks something; the message names the setting of the loss.
    """
    for need in needs(config):
        kind = KINDS.get(need.what)
        if kind is not None and not kind.exists(data):
            instead = need.instead or f'set {need.setting}: 0'
            raise DataError(
                f"setting '{need.setting}' needs {kind.name}, and no sequence in '{config.data}' "
                f'has {kind.missing}: {kind.remedy}, or {instead}'
            )
