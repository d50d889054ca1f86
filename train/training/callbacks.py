"""Which checkpoints a training keeps."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from depth_ros.files import write_file
from train.losses.reduction import LossError

KEPT = 3
"""Checkpoints of the last steps that are kept: last.ckpt, last-1.ckpt before it, and so on."""


class WholeCheckpoints(TorchCheckpointIO):
    """Writes every checkpoint whole or not at all, over an older one or not.

    Lightning writes to the system's temporary folder and moves, which on another file system is
    a copy: a full disk would leave half of it under its name.
    """

    def save_checkpoint(self, checkpoint: dict, path: str | Path, storage_options: Any = None):
        """Write a checkpoint."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_file(path, content.getvalue())


def is_finite(trainer: lightning.Trainer, system: lightning.LightningModule) -> bool:
    """Whether weights and the optimiser's state are all numbers, in every process."""
    finite = all(bool(t.isfinite().all()) for t in _state(trainer, system))
    return trainer.strategy.reduce_boolean_decision(finite, all=True)


def _state(trainer: lightning.Trainer, system: lightning.LightningModule) -> Iterator[Tensor]:
    yield from (t for t in system.state_dict().values() if t.is_floating_point())
    for optimizer in trainer.optimizers:
        for values in optimizer.state.values():
            yield from (t for t in values.values() if torch.is_tensor(t))


class KeepBest(ModelCheckpoint):
    """Saves the best so far: by the error of depth if it is known and learns, of a
    reconstruction's points before true depth; by that of the motion if it is known and depth does
    not learn; else by the photometric error."""

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
        known = ('val/points_abs_rel', 'val/abs_rel') if self.by_depth else ('val/motion',)
        self.monitor = next((n for n in known if n in trainer.callback_metrics), self.monitor)
        score = trainer.callback_metrics.get(self.monitor or '')
        if (score is None or score.isfinite()) and is_finite(trainer, system):
            super().on_validation_end(trainer, system)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the best of before as the bar, if its file is still there, wherever that is now."""
        best = Path(str(self.dirpath)) / 'best.ckpt'
        if best.exists():
            scores = state_dict['best_k_models'].values()
            here = {
                'dirpath': self.dirpath,
                'best_model_path': str(best),
                'kth_best_model_path': str(best),
                'best_k_models': {str(best): score for score in scores},
            }
            super().load_state_dict({**state_dict, **here})


class KeepLast(Callback):
    """Saves where training is: every 100 steps, at the end, on Ctrl-C and on a failure.

    What is not finite is never saved, and the last :data:`KEPT` that were stay.

    Args:
        path: of the last checkpoint.
        fresh: the training starts anew: what an earlier one left is no older state of it.
    """

    def __init__(self, path: Path, fresh: bool = False) -> None:
        self.path, self.fresh = path, fresh
        self.saved_step: int | None = None
        self._handler = None

    def save(self, trainer: lightning.Trainer) -> None:
        """Write the checkpoint, whole or not at all."""
        if not is_finite(trainer, trainer.lightning_module):
            raise LossError('the weights are no longer finite')
        if trainer.is_global_zero and self.saved_step != trainer.global_step:
            self._keep_earlier()
        trainer.save_checkpoint(self.path)
        self.saved_step, self.fresh = trainer.global_step, False

    def earlier(self) -> list[Path]:
        """Where the checkpoints before the last are, or would be, the newest first."""
        return [self.path.with_stem(f'{self.path.stem}-{n}') for n in range(1, KEPT)]

    def _keep_earlier(self) -> None:
        earlier = self.earlier()
        if self.fresh:
            for path in earlier:
                path.unlink(missing_ok=True)
        elif self.path.exists():
            for newer, older in reversed(list(zip(earlier, earlier[1:], strict=False))):
                with suppress(FileNotFoundError):
                    os.replace(newer, older)
            earlier[0].unlink(missing_ok=True)
            try:
                os.link(self.path, earlier[0])  # so that the last is never missing
            except OSError:  # a file system without links
                os.replace(self.path, earlier[0])

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

    def on_exception(
        self,
        trainer: lightning.Trainer,
        system: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        """Before the training ends early."""
        # Weights that lead nowhere are not worth keeping, and a full disk stays full. Where one
        # process of several fails, the others do not come to help writing.
        if isinstance(exception, LossError | OSError):
            return
        if trainer.global_step and trainer.world_size == 1 and is_finite(trainer, system):
            self.save(trainer)
