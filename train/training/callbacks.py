"""Lightning callbacks that write the checkpoints of a training: the best and the last ones."""

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
"""Number of recent checkpoints to keep: last.ckpt, the older last-1.ckpt, and so on."""


class WholeCheckpoints(TorchCheckpointIO):
    """Writes every checkpoint whole or not at all, also where it replaces an older one.

    Lightning itself writes to the system's temporary folder and then moves the file. Between file
    systems a move is a copy, and a full disk would leave half a checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict, path: str | Path, storage_options: Any = None):
        """Write a checkpoint.

        Args:
            checkpoint: content to save with ``torch.save``.
            path: file to write; missing parent folders are made.
            storage_options: ignored.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_file(path, content.getvalue())


def is_finite(trainer: lightning.Trainer, system: lightning.LightningModule) -> bool:
    """Whether all weights and the whole state of the optimiser are finite, in every process."""
    finite = all(bool(t.isfinite().all()) for t in _state(trainer, system))
    return trainer.strategy.reduce_boolean_decision(finite, all=True)


def _state(trainer: lightning.Trainer, system: lightning.LightningModule) -> Iterator[Tensor]:
    yield from (t for t in system.state_dict().values() if t.is_floating_point())
    for optimizer in trainer.optimizers:
        for values in optimizer.state.values():
            yield from (t for t in values.values() if torch.is_tensor(t))


class KeepBest(ModelCheckpoint):
    """Saves the best checkpoint so far as ``best.ckpt``.

    If the depth network learns, the best is the one with the lowest depth error (Abs Rel): on the
    held-out points of a reconstruction if there are any, else on true depth. If only the pose
    network learns, it is the one with the lowest error of known motion. Without such ground truth
    it is the one with the lowest photometric error.

    Args:
        folder: folder for best.ckpt.
        by_depth: whether the depth network learns.
    """

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
        """Name of this callback's state in a checkpoint; the same for every monitored error."""
        return type(self).__qualname__

    def on_validation_end(
        self, trainer: lightning.Trainer, system: lightning.LightningModule
    ) -> None:
        """Choose the error to compare, and save if it is the lowest so far."""
        known = ('val/points_abs_rel', 'val/abs_rel') if self.by_depth else ('val/motion',)
        self.monitor = next((n for n in known if n in trainer.callback_metrics), self.monitor)
        score = trainer.callback_metrics.get(self.monitor or '')
        if (score is None or score.isfinite()) and is_finite(trainer, system):
            super().on_validation_end(trainer, system)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score if best.ckpt still exists, even if its folder was moved."""
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
    """Saves the current state every 100 steps, at the end, on Ctrl-C and on a failure.

    Weights that are not finite are never saved. The last :data:`KEPT` checkpoints are kept.

    Args:
        path: file of the last checkpoint.
        fresh: whether the training starts from the beginning; the older checkpoints in the folder
            then belong to another training and are deleted at the first save.
    """

    def __init__(self, path: Path, fresh: bool = False) -> None:
        self.path, self.fresh = path, fresh
        self.saved_step: int | None = None
        self._handler = None

    def save(self, trainer: lightning.Trainer) -> None:
        """Write the checkpoint, whole or not at all.

        Raises:
            LossError: if the weights are no longer finite.
        """
        if not is_finite(trainer, trainer.lightning_module):
            raise LossError('the weights are no longer finite')
        if trainer.is_global_zero and self.saved_step != trainer.global_step:
            self._keep_earlier()
        trainer.save_checkpoint(self.path)
        self.saved_step, self.fresh = trainer.global_step, False

    def earlier(self) -> list[Path]:
        """Paths of the older checkpoints, newest first, whether or not they exist."""
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
                os.link(self.path, earlier[0])  # last.ckpt exists at every moment
            except OSError:  # a file system without links
                os.replace(self.path, earlier[0])

    def on_train_start(self, trainer: lightning.Trainer, *_: object) -> None:
        """Make the first Ctrl-C wait for the end of the step.

        In the middle of a step only some of the weights have been changed.
        """

        def stop(*_: object) -> None:
            print('\nstopping after this step; Ctrl-C again stops at once', flush=True)
            trainer.should_stop = True
            signal.signal(signal.SIGINT, self._handler)

        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._handler = signal.signal(signal.SIGINT, stop)

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: object) -> None:
        """Save every 100 steps, and make all processes stop after the same step."""
        if trainer.world_size > 1:  # only one of them may have been interrupted
            trainer.should_stop = trainer.strategy.reduce_boolean_decision(
                trainer.should_stop, all=False
            )
        if trainer.global_step % 100 == 0:
            self.save(trainer)

    def on_train_end(self, trainer: lightning.Trainer, *_: object) -> None:
        """Save after the last step, and restore the handling of Ctrl-C."""
        self.save(trainer)
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)

    def on_exception(
        self,
        trainer: lightning.Trainer,
        system: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        """Save before an exception ends the training."""
        # Diverged weights are not worth keeping, and a full disk stays full. If one of several
        # processes fails, the others do not take part in writing.
        if isinstance(exception, LossError | OSError):
            return
        if trainer.global_step and trainer.world_size == 1 and is_finite(trainer, system):
            self.save(trainer)
