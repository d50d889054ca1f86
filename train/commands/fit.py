"""``python -m train fit``: train depth, semantics and motion on a data set."""

from __future__ import annotations

import argparse
import math
import os
import signal
import warnings
from functools import partial
from pathlib import Path
from textwrap import shorten

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader, DistributedSampler

from depth_ros.allocator import keep_memory
from train.data.augment import Augmentation
from train.data.checks import check_sequences
from train.data.dataset import FrameDataset, StepSampler, init_worker
from train.data.sequences import DataError
from train.training.config import Config, add_config_arguments, read_config
from train.training.pictures import Pictures
from train.training.system import System

LOG_EVERY = 20  # steps between two entries of the log

# Lightning cannot know that the sampler starts at the checkpoint's step, and that the logs and
# checkpoints of one run belong together.
HARMLESS = (
    '.*dataloader is not resumable',
    '.*exists and is not empty',
    '.*smaller than the logging interval',
    '.*does not have many workers',
)

say = rank_zero_only(partial(print, flush=True))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = """\
Writes OUT/last.ckpt (every 100 steps), OUT/best.ckpt (by the error of depth where --val has true
depth, else by the photometric error) and OUT/logs (`tensorboard --logdir OUT/logs`; also CSV).
The same command again goes on where an interrupted training stopped. Ctrl-C ends it after the
present step, with a checkpoint.
"""
    add_config_arguments(parser)
    parser.add_argument(
        '--restart',
        action='store_true',
        help='start over even where the run folder holds a checkpoint',
    )


def run(args: argparse.Namespace) -> None:
    """Train, or go on where an interrupted training stopped."""
    config = read_config(args)
    last = Path(config.out) / 'last.ckpt'
    fit(config, resume_from=last if last.exists() and not args.restart else None)


class Data(lightning.LightningDataModule):
    """The loaders of a training: samples depend on the seed and the step only, so that a training
    that goes on sees what it would have seen.

    Raises:
        DataError: if a data set has nothing to offer, or lacks what a loss needs.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        size = (config.width, config.height)
        augmentation = Augmentation(
            flip=config.flip,
            jitter=config.jitter,
            scale=config.scale,
            night=config.night,
            rain=config.rain,
            blur=config.blur,
        )
        self.train = FrameDataset(
            config.data,
            *size,
            views=config.views,
            max_gap=config.max_gap,
            augment=augmentation,
            exclude=check_sequences(config.data),
        )
        self.val = FrameDataset(
            config.val, *size, views=config.views, exclude=check_sequences(config.val)
        )
        _check_needs(config, self.train)

    def train_dataloader(self) -> DataLoader:
        """Batches from the present step to the last."""
        config, trainer = self.config, self.trainer
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

    def val_dataloader(self) -> DataLoader:
        """Every sample once, shared among the processes."""
        trainer = self.trainer
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


def _check_needs(config: Config, data: FrameDataset) -> None:
    """Check that there is what the losses need, without which they would be 0 to the end.

    Raises:
        DataError: naming the setting.
    """
    from_labels = [
        name for name in ('semantic', 'triplet', 'camera_height') if getattr(config, name)
    ]
    if config.moving == 'semantic':
        from_labels.append('moving')
    if from_labels and not data.has('semantics'):
        name = from_labels[0]
        remedy = (
            ''
            if name != 'camera_height'
            else ", or leave it to 'python -m train export --camera-height'"
        )
        raise DataError(
            f"setting '{name}' needs labels, and no sequence in '{config.data}' has a "
            f"folder semantics: make them by 'python -m train label'{remedy}"
        )
    if config.velocity and not any(
        math.isfinite(s.distance(i, i + 1))
        for s in data.sequences
        for i in range(len(s.images) - 1)
    ):
        raise DataError(
            "setting 'velocity' needs distances, and no sequence in "
            f"'{config.data}' has an odometry.txt or speed.txt: prepare a recording "
            'with wheel odometry or GPS, or set velocity: 0'
        )


class KeepBest(ModelCheckpoint):
    """Saves the best so far, by the error of depth if it is known and learns, or else by the
    photometric error."""

    def __init__(self, folder: Path, by_depth: bool) -> None:
        super().__init__(
            folder,
            filename='best',
            monitor='val/photometric',
            mode='min',
            enable_version_counter=False,
        )
        self.by_depth = by_depth

    @property
    def state_key(self) -> str:
        """Name of its state in a checkpoint, whatever is monitored."""
        return type(self).__qualname__

    def on_validation_end(
        self, trainer: lightning.Trainer, system: lightning.LightningModule
    ) -> None:
        """After each validation."""
        if self.by_depth and 'val/abs_rel' in trainer.callback_metrics:
            self.monitor = 'val/abs_rel'
        super().on_validation_end(trainer, system)


class KeepLast(Callback):
    """Saves where training is: every 100 steps, at the end, on Ctrl-C and on a failure."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handler = None

    def save(self, trainer: lightning.Trainer) -> None:
        """Write the checkpoint, whole or not at all."""
        part = self.path.with_suffix('.part')
        trainer.save_checkpoint(part)
        if trainer.is_global_zero:
            os.replace(part, self.path)

    def on_train_start(self, trainer: lightning.Trainer, *_: object) -> None:
        """From now on the first Ctrl-C lets the step end; in the middle of it the weights are
        half changed."""

        def stop(*_: object) -> None:
            print('\nstopping after this step; Ctrl-C again stops at once', flush=True)
            trainer.should_stop = True
            signal.signal(signal.SIGINT, self._handler)

        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._handler = signal.signal(signal.SIGINT, stop)

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: object) -> None:
        """After each step."""
        if trainer.world_size > 1:  # all end after the same step, whichever was interrupted
            trainer.should_stop = trainer.strategy.reduce_boolean_decision(
                trainer.should_stop, all=False
            )
        if trainer.global_step % 100 == 0:
            self.save(trainer)

    def on_train_end(self, trainer: lightning.Trainer, *_: object) -> None:
        """After the last step."""
        self.save(trainer)
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)

    def on_exception(self, trainer: lightning.Trainer, *_: object) -> None:
        """Before the training ends early."""
        # Where one process of several fails, the others do not come to help writing.
        if trainer.global_step and trainer.world_size == 1:
            self.save(trainer)


def fit(config: Config, resume_from: Path | None = None) -> System:
    """Train as ``config`` says.

    ``config.out`` receives the checkpoints ``last.ckpt`` and ``best.ckpt`` (by validation Abs Rel,
    or by the photometric loss where there is no true depth or depth does not learn) and, for each
    start of the training, ``logs/version_N`` with CSV and TensorBoard files.

    Raises:
        DataError: if a data set is incomplete.
        ValueError: if the loss has no valid pixel, see :mod:`train.losses.view_synthesis`.
    """
    keep_memory()
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    data = Data(config)
    say(
        f'training on {len(data.train)} samples of {len(data.train.sequences)} sequences, '
        f'validating on {len(data.val)}'
    )
    out = Path(config.out)
    board = TensorBoardLogger(out, name='logs')
    processes = config.devices * config.nodes
    trainer = lightning.Trainer(
        max_steps=config.steps,
        precision=config.precision,
        default_root_dir=out,
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.nodes,
        strategy='ddp' if processes > 1 else 'auto',
        use_distributed_sampler=False,
        # Batch norm over all processes exists on GPUs only.
        sync_batchnorm=processes > 1 and config.accelerator != 'cpu' and torch.cuda.is_available(),
        logger=[board, CSVLogger(out, name='logs', version=board.version)],
        log_every_n_steps=LOG_EVERY,
        check_val_every_n_epoch=None,
        val_check_interval=config.val_every,
        num_sanity_val_steps=0,
        gradient_clip_val=config.gradient_clip or None,
        callbacks=[
            KeepBest(out, config.train_perception),
            KeepLast(out / 'last.ckpt'),
            Pictures(),
            TQDMProgressBar(refresh_rate=10),
        ],
    )
    # The memory layout that convolutions prefer.
    system = System(config).to(memory_format=torch.channels_last)
    if config.init and resume_from is None:
        try:
            weights = torch.load(config.init, map_location='cpu', weights_only=True)['state_dict']
            system.load_state_dict(weights)
        except Exception as error:  # pickle, zip and torch each have their own
            raise ValueError(
                f"--init '{config.init}' is no checkpoint of the same networks "
                f'({shorten(str(error), 200)})'
            ) from error
    with warnings.catch_warnings():
        for message in HARMLESS:
            warnings.filterwarnings('ignore', message=message)
        trainer.fit(system, data, ckpt_path=resume_from, weights_only=True)
    if trainer.global_step < config.steps:
        say(f'stopped at step {trainer.global_step} of {config.steps}; the same command goes on')
    return system
