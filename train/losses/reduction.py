"""Means over masked pixels that are the same on one process and on many."""

from __future__ import annotations

import torch
import torch.distributed
from torch import Tensor


class LossError(ValueError):
    """A loss that cannot be learnt from: over no pixel, or no number. The training diverged, or
    its data is wrong."""


def masked_mean(values: Tensor, mask: Tensor, empty: str = 'error') -> Tensor:
    """Mean of the values where the mask is true.

    Where torch.distributed runs, the sum of this process is divided by the number of true
    elements *per process, averaged over all processes*. The mean over the processes, which is
    what DistributedDataParallel takes of the gradients, is then the mean over the whole batch,
    although the processes do not have equally many true elements.

    Args:
        values: any shape; where the mask is false they are ignored and may be NaN.
        mask: bool, of the same shape.
        empty: what to do if no process has a true element: 'error', or 'zero' for a zero that can
            be differentiated.

    Raises:
        LossError: if no element is true and ``empty`` is 'error'.
    """
    total = values.masked_fill(~mask, 0).sum()
    return total * weight_of_each(mask.sum().to(total.dtype), empty)


def weight_of_each(count: Tensor, empty: str = 'error') -> Tensor:
    """Factor from this process's sum over ``count`` elements to :func:`masked_mean`.

    Args:
        count: floating-point scalar; it is overwritten.
        empty: as for :func:`masked_mean`.

    Raises:
        LossError: if no process has an element and ``empty`` is 'error'.
    """
    processes = 1
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(count)
        processes = torch.distributed.get_world_size()
    if empty == 'error' and count == 0:
        raise LossError(
            'a loss over no valid pixel: every pixel of the batch is out of view, '
            'masked or unknown; check the intrinsics, masks and labels, or lower the '
            'learning rate'
        )
    return processes / count.clamp(min=1)
