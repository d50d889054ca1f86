"""``python -m train fit``: train both networks on a data set."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from train.config import Config, add_config_arguments, read_config
from train.data import TripletDataset
from train.system import StreetSystem

HELP = 'train depth, semantics and pose networks on a data set'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line."""
    add_config_arguments(parser)
    parser.add_argument('--restart', action='store_true',
                        help='start over even where the run folder holds a checkpoint')


def run(args: argparse.Namespace) -> None:
    """Train, or go on where an interrupted training stopped."""
    config = read_config(args)
    out = Path(config.out)
    last = out / 'last.ckpt'
    resume = last.exists() and not args.restart
    fit(config, resume_from=last if resume else None)


class KeepLast(Callback):
    """Saves where training is: every 100 steps, at the end, and on an interrupt or a failure."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(self, trainer: lightning.Trainer) -> None:
        """Write the checkpoint, whole or not at all."""
        part = self.path.with_suffix('.part')
        trainer.save_checkpoint(part)
        os.replace(part, self.path)

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: object) -> None:
        """After each step."""
        if trainer.global_step % 100 == 0:
            self.save(trainer)

    def on_train_end(self, trainer: lightning.Trainer, *_: object) -> None:
        """After the last step."""
        self.save(trainer)

    def on_exception(self, trainer: lightning.Trainer, *_: object) -> None:
        """Before the training ends early."""
        if trainer.global_step:
            self.save(trainer)


def fit(config: Config, resume_from: Path | None = None) -> StreetSystem:
    """Train as ``config`` says.

    ``config.out`` receives the checkpoints ``last.ckpt`` and ``best.ckpt`` (by validation Abs Rel,
    or by the photometric loss where there is no true depth or depth does not learn) and, for each
    start of the training, ``logs/version_N/metrics.csv``.

    Raises:
        DataError: if a data set is incomplete.
    """
    lightning.seed_everything(config.seed, workers=True)
    size = (config.width, config.height)
    train = TripletDataset(config.data, *size, augment=True, max_gap=config.max_gap)
    val = TripletDataset(config.val, *size, augment=False)
    print(f'training on {len(train)} triplets of {len(train.sequences)} sequences, '
          f'validating on {len(val)}', flush=True)
    keep = {'persistent_workers': config.workers > 0, 'num_workers': config.workers}
    loaders = (
        DataLoader(train, config.batch_size, shuffle=True, drop_last=True, **keep),
        DataLoader(val, config.batch_size, **keep),
    )
    out = Path(config.out)
    by_depth = config.train_perception and 'depth' in val.ground_truth()
    judge = 'val/abs_rel' if by_depth else 'val/photometric'
    best = ModelCheckpoint(out, filename='best', monitor=judge, mode='min',
                           enable_version_counter=False)
    trainer = lightning.Trainer(
        max_steps=config.steps, precision=config.precision, default_root_dir=out,
        logger=CSVLogger(out, name='logs'), log_every_n_steps=20,
        check_val_every_n_epoch=None, val_check_interval=config.val_every,
        num_sanity_val_steps=0, gradient_clip_val=10.0,
        callbacks=[best, KeepLast(out / 'last.ckpt'), TQDMProgressBar(refresh_rate=10)])
    # The memory layout that convolutions on CPUs prefer.
    system = StreetSystem(config).to(memory_format=torch.channels_last)
    system.save_hyperparameters(asdict(config))
    if config.init and resume_from is None:
        weights = torch.load(config.init, map_location='cpu', weights_only=True)['state_dict']
        system.load_state_dict(weights)
    trainer.fit(system, *loaders, ckpt_path=resume_from, weights_only=True)
    return system
