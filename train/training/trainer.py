"""Run a training: build the system and its data, and write checkpoints and logs."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
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
from depth_ros.files import discard_parts, locked
from train.losses.reduction import LossError
from train.training.callbacks import KeepBest, KeepLast, WholeCheckpoints
from train.training.claim import claim, read_checkpoint, write_claim
from train.training.config import Config
from train.training.data import Data
from train.training.pictures import Pictures
from train.training.system import System, load_system

LOG_EVERY = 20  # steps between two entries of the log

# These warnings do not apply: the sampler starts at the checkpoint's step, and a run folder keeps
# the logs and checkpoints of all its parts.
HARMLESS = (
    '.*dataloader is not resumable',
    '.*exists and is not empty',
    '.*smaller than the logging interval',
    '.*does not have many workers',
)

say = rank_zero_only(partial(print, flush=True))


def fit(config: Config, resume_from: Path | None = None) -> System:
    """Train as ``config`` says.

    ``config.out`` receives the checkpoints ``last.ckpt`` and ``best.ckpt`` (see
    :class:`train.training.callbacks.KeepBest`) and, for each start of the training,
    ``logs/version_N`` with CSV and TensorBoard files.

    A resumed training must have the same data and settings as before, except for
    :data:`train.training.claim.MAY_CHANGE`.

    Args:
        config: the settings.
        resume_from: checkpoint of this training from which to resume; ``None``: start anew.

    Returns:
        The trained system.

    Raises:
        DataError: if a data set is incomplete.
        LossError: if the training diverges or the loss has no valid pixel; the last good
            checkpoint is kept.
        ValueError: if the folder holds another training, another process is training in it, or
            its checkpoint is damaged.
    """
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    # Only the first of several processes writes.
    alone = locked(out / '.lock', 'training') if rank_zero_only.rank == 0 else nullcontext()
    with alone:
        return _fit(config, out, resume_from)


def _fit(config: Config, out: Path, resume_from: Path | None) -> System:
    keep_memory()
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    started = 0
    if resume_from is not None:
        started = read_checkpoint(resume_from, config)['global_step']
    data = Data(config)
    claimed = claim(config, data, goes_on=resume_from is not None)
    if resume_from is not None and started >= config.steps:
        say(
            f"nothing to do: '{resume_from}' is of step {started}, and {config.steps} are asked "
            'for; give more --steps to go on, or --restart to start over'
        )
        return load_system(resume_from)
    say(
        f'training on {len(data.train)} samples of {len(data.train.sequences)} sequences, '
        f'validating on {len(data.val)}'
    )
    board = TensorBoardLogger(out, name='logs')
    last = KeepLast(out / 'last.ckpt', fresh=resume_from is None)
    processes = config.devices * config.nodes
    trainer = lightning.Trainer(
        max_steps=config.steps,
        precision=cast(Any, config.precision),  # Lightning refuses what it does not know
        default_root_dir=out,
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.nodes,
        strategy='ddp' if processes > 1 else 'auto',
        use_distributed_sampler=False,
        # Batch norm over all processes exists only on GPUs.
        sync_batchnorm=processes > 1 and config.accelerator != 'cpu' and torch.cuda.is_available(),
        logger=[board, CSVLogger(out, name='logs', version=board.version)],
        log_every_n_steps=LOG_EVERY,
        check_val_every_n_epoch=None,
        val_check_interval=config.val_every,
        num_sanity_val_steps=0,
        gradient_clip_val=config.gradient_clip or None,
        plugins=[WholeCheckpoints()],
        callbacks=[
            KeepBest(out, config.train_perception),
            last,
            Pictures(),
            TQDMProgressBar(refresh_rate=10),
        ],
    )
    # Convolutions run fastest in this memory format.
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
        if trainer.is_global_zero:
            write_claim(config, claimed)
            for name in ('last.ckpt', 'best.ckpt'):
                discard_parts(out / name)
        try:
            trainer.fit(system, data, ckpt_path=resume_from, weights_only=True)
        except LossError as error:
            raise LossError(
                f'step {trainer.global_step}: {error}. {_remedy(config, last, resume_from)}'
            ) from error
    if trainer.global_step < config.steps:
        say(f'stopped at step {trainer.global_step} of {config.steps}; the same command goes on')
    return system


def _remedy(config: Config, last: KeepLast, resume_from: Path | None) -> str:
    """What to do about a training that diverged."""
    lower = f'a lower --learning-rate (now {config.learning_rate:g})'
    if last.saved_step is None and resume_from is None:
        return f'Nothing was saved: run again with {lower}'
    kept = f"'{last.path}' is from before that: run again with {lower}"
    older = [str(path) for path in last.earlier() if path.exists()]
    if older:
        kept += f'; if that fails, too, with --resume {older[-1]}'
    return f'{kept}; or start over with --restart'
