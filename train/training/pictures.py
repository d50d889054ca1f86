"""Pictures of the networks' outputs in TensorBoard after each validation."""

from __future__ import annotations

from typing import Any, cast

import cv2
import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.data import default_collate

from depth_ros.core.colors import (
    ERROR_PALETTE,
    color_depth,
    error_levels,
    label_palette,
    paint,
)
from depth_ros.inference.classes import CITYSCAPES
from train.losses import triplet
from train.networks.perception import resize
from train.training.system import System

_PALETTE = label_palette({item.id: item.color for item in CITYSCAPES})


class Pictures(Callback):
    """Draws a few samples of the validation set, always the same ones.

    For each sample: the target image and its disparity; and, where there are such, a source image
    warped onto the target, the photometric error, the pixels that the motion explains better than
    no motion, predicted and true classes, the anchors of the triplet loss, and the trust in the
    first source.

    Args:
        samples: number of samples.
    """

    def __init__(self, samples: int = 3) -> None:
        self.samples = samples

    def on_validation_end(
        self, trainer: lightning.Trainer, system: lightning.LightningModule
    ) -> None:
        """Draw the samples and log them."""
        data = cast(Any, trainer).datamodule.val  # set by fit, but not declared
        chosen = np.linspace(0, len(data) - 1, min(self.samples, len(data)), dtype=int)
        batch = default_collate([data[int(i)] for i in chosen])
        batch = {name: value.to(system.device) for name, value in batch.items()}
        # All processes draw: each waits for the others' losses.
        pictures = [tile(panels) for panels in draw(cast(System, system), batch)]
        board = next((x for x in trainer.loggers if isinstance(x, TensorBoardLogger)), None)
        if board is None or not trainer.is_global_zero:
            return
        for index, picture in enumerate(pictures):
            board.experiment.add_image(
                f'validation/{index}', picture, trainer.global_step, dataformats='HWC'
            )


@torch.no_grad()
def draw(system: System, batch: dict[str, Tensor]) -> list[dict[str, np.ndarray]]:
    """Draw each sample of a batch.

    Args:
        system: the networks and losses.
        batch: as :meth:`System.losses` takes it.

    Returns:
        For each sample, panels by name, uint8 (H, W, 3) RGB.
    """
    terms = system.losses(batch)
    prediction, synthesis = terms.prediction, terms.synthesis
    height, width = batch['images'].shape[-2:]
    anchors = None
    if triplet.TERM.weight_in(system.config):
        anchors = triplet.boundary_anchors(batch['labels'], border=system.config.triplet_border)
    result = []
    for i in range(len(batch['images'])):
        disparity = resize(prediction.disparities[0][i : i + 1].float(), height, width)[0, 0]
        panels = {
            'target': _rgb(batch['images'][i, system.target].float() / 255),
            'disparity': color_depth(
                1 / _numpy(disparity), 1 / float(torch.quantile(disparity, 0.98))
            ),
        }
        if synthesis is not None:
            panels['warped'] = _rgb(synthesis.warped[0][i])
            panels['error'] = paint(error_levels(_numpy(synthesis.error[i, 0])), ERROR_PALETTE)
            panels['moving'] = _share(synthesis.moving[i, 0])
        if prediction.logits is not None:
            labels = resize(prediction.logits[i : i + 1].float(), height, width)[0].argmax(0)
            panels['classes'] = _PALETTE[labels.cpu().numpy()]
            panels['classes given'] = _PALETTE[batch['labels'][i].cpu().numpy()]
        if anchors is not None:
            panels['anchors'] = _share(anchors[i])
        if terms.weights is not None:
            panels['trust'] = _share(terms.weights[0][i, 0])
        result.append(panels)
    return result


def tile(panels: dict[str, np.ndarray], columns: int = 2) -> np.ndarray:
    """Join named panels of any sizes into one picture, in rows of ``columns``."""
    height, width = panels['target'].shape[:2]
    cells = []
    for name, panel in panels.items():
        cell = cv2.resize(panel, (width, height), interpolation=cv2.INTER_NEAREST)
        cells.append(
            cv2.putText(
                cell, name, (4, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA
            )
        )
    cells += [np.zeros_like(cells[0])] * (-len(cells) % columns)
    return np.vstack([np.hstack(cells[i : i + columns]) for i in range(0, len(cells), columns)])


def _rgb(image: Tensor) -> np.ndarray:
    """Convert a float image (3, H, W) in 0..1 to uint8 (H, W, 3)."""
    pixels = (image.float() * 255).clamp(0, 255).byte()
    return np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy())


def _share(values: Tensor) -> np.ndarray:
    """Draw values (H, W) from 0 (black) to 1 (white) as uint8 (H, W, 3)."""
    return _rgb(values.float().nan_to_num().expand(3, -1, -1))


def _numpy(values: Tensor) -> np.ndarray:
    return values.float().cpu().numpy()
