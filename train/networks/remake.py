"""Activations that are made again for the backward pass in place of being kept for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from weakref import WeakValueDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import Node, saved_tensors_hooks

_OPERATIONS = {'ReluBackward0': torch.relu, 'AddBackward0': torch.add}
"""What steps of autograd did in the forward pass."""


@contextmanager
def remaking(net: nn.Module) -> Iterator[None]:
    """Let autograd keep less of the forward pass of ``net``, for the same gradients.

    Batch norm keeps its input, a convolution's output. Its own output, and what ReLU and the sum of
    a residual block make of it, follow from that pixel by pixel: they are made again, with the
    statistics of the forward pass, when the backward pass asks for them. Positions of max-pooling
    are kept in 32 bits. All else is kept as ever: where batch norm does not learn its statistics,
    or where ReLU and sum do not write over their input, as those of timm's ResNets do.
    """
    recipes = _Recipes()
    hooks = [
        module.register_forward_hook(recipes.learn)
        for module in net.modules()
        if type(module) in (nn.BatchNorm2d, nn.MaxPool2d)
    ]
    try:
        with saved_tensors_hooks(recipes.pack, _unpack):
            yield
    finally:
        recipes.of.clear()  # its keys keep alive what keeps it alive
        for hook in hooks:
            hook.remove()


class _Remade:
    """A tensor that is made when it is asked for, and dropped when all its users have had it.

    Args:
        make: makes it of ``parts``, and writes to none of them.
        parts: tensors.
    """

    def __init__(self, make: Callable[..., Tensor], *parts: _Remade) -> None:
        self.make, self.parts = make, parts
        self.users = self.waiting = 0
        self.value: Tensor | None = None
        for part in parts:
            part.users += 1

    def __call__(self) -> Tensor:
        """The tensor, for one of its users."""
        if self.value is None:
            self.value, self.waiting = self.make(*(part() for part in self.parts)), self.users
        value = self.value
        self.waiting -= 1
        if not self.waiting:
            self.value = None
        return value


class _Recipes:
    """How to make the outputs of a forward pass again, by the step of autograd they come from."""

    def __init__(self) -> None:
        self.of: dict[Node, _Remade] = {}
        # Weak: what nobody holds any longer is not going to be saved either.
        self.outputs: WeakValueDictionary[int, Tensor] = WeakValueDictionary()

    def learn(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        """Forward hook of batch norm and max-pooling."""
        node, (x,) = output.grad_fn, inputs
        if isinstance(module, nn.MaxPool2d):
            make = output.detach  # kept, for the sums that it is part of
        elif module.training and hasattr(node, '_saved_result2'):
            mean, factor = node._saved_result1, node._saved_result2
            # In the order of batch norm itself, so that not even the last bit differs on CPUs.
            make = partial(
                F.batch_norm,
                x.detach(),
                mean,
                torch.ones_like(mean),
                factor * module.weight.detach(),
                module.bias.detach().clone(),
                eps=0.0,
            )
        else:
            return
        if node is not None:
            self.of[node] = _Remade(make)
            self.outputs[output.data_ptr()] = output

    def find(self, node: Node | None) -> _Remade | None:
        """The output of a step, or ``None`` if there is no way to make it."""
        if node not in self.of and node is not None and node.name() in _OPERATIONS:
            parts = [self.find(step) for step, _ in node.next_functions]
            if None not in parts and getattr(node, '_saved_alpha', 1) == 1:
                self.of[node] = _Remade(_OPERATIONS[node.name()], *parts)
        return self.of.get(node)

    def pack(self, tensor: Tensor) -> Tensor | _Remade:
        """What to keep in the place of ``tensor``."""
        if tensor.dtype == torch.int64:
            remade = _Remade(partial(tensor.int().to, torch.int64))
        else:
            output = self.outputs.get(tensor.data_ptr())
            # Those that write over it take over its name: autograd knows whose output it now is.
            same = output is not None and tensor.is_set_to(output)
            remade = self.find(output.grad_fn) if same else None
        if remade is None:
            return tensor
        remade.users += 1
        return remade


def _unpack(kept: Tensor | _Remade) -> Tensor:
    return kept() if isinstance(kept, _Remade) else kept
