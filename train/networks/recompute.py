"""Training with less memory: cheap activations are recomputed in the backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

KEPT = (torch.ops.aten.convolution.default, torch.ops.aten.max_pool2d_with_indices.default)
"""Operations whose results are kept, because recomputing them would take long."""


def recompute(net: nn.Module, x: Tensor) -> Any:
    """``net(x)``, keeping only the outputs of convolutions and pooling for the backward pass.

    The outputs of batch norm, ReLU and residual sums, nearly half of the memory of a ResNet's
    activations, are recomputed in the backward pass. This takes two percent of the time of a
    training step of FSRE-Depth. The results are the same to the last bit.

    Args:
        net: a network in which batch norm follows each convolution; no layer may overwrite the
            output of a convolution.
        x: its input.

    Returns:
        The outputs. Their gradient can be taken only once.
    """
    return checkpoint(net, x, use_reentrant=False, context_fn=partial(_contexts, net))


def _policy(_: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    if operation in KEPT:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


def _contexts(net: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """Contexts of the forward pass and of the second one, in the backward pass."""
    first, second = create_selective_checkpoint_contexts(_policy)
    return first, _second_pass(net, second)


@contextmanager
def _second_pass(net: nn.Module, context: AbstractContextManager) -> Iterator[None]:
    """Context in which batch norm leaves its running statistics and counters unchanged."""
    norms = [
        module
        for module in net.modules()
        if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm) and module.training
    ]
    with ExitStack() as stack:
        for norm in norms:
            stack.callback(setattr, norm, 'momentum', norm.momentum)
            if norm.num_batches_tracked is not None:
                stack.callback(norm.num_batches_tracked.copy_, norm.num_batches_tracked.clone())
            norm.momentum = 0.0
        with context:
            yield
