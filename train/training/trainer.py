"""Train as a config says, with checkpoints and logs."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import Any, cast

import lightning
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from depth_ros.allocator import keep_memory
from train.training.callbacks import KeepBest, KeepLast
from train.training.config import Config
from train.training.data import Data
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
        precision=cast(Any, config.precision),  # one of Lightning's, as Config checks
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
