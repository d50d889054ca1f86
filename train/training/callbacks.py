"""Which checkpoints a training keeps."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import lightning
from lightning.pytorch.callbacks import Callback, ModelCheckpoint


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
