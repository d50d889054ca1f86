"""Cross-task multi-embedding attention (FSRE-Depth's CMA)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from train.networks.unet import ReflectConv, autocast

HEADS = 4


class Merged(NamedTuple):
    """Products of the embeddings' matrices.

    With them attention needs 7 C^2 operations per pixel; the embeddings themselves need 26 C^2.

    Softmax weights sum to 1 and do not change when the same number is added to all scores. So the
    first head's scores and values are subtracted from those of the n = HEADS - 1 other heads, and
    only the differences are kept. They are weights and biases of 1x1 convolutions. For head h, with
    embeddings of D channels, each is the following product less the first head's:

    Attributes:
        score: (n C, C, 1, 1) Wq_h^T Wk_h / sqrt(HEADS D).
        score_bias: (n C,) Wq_h^T bk_h / sqrt(HEADS D).
        offset: (n, C, 1, 1) Wk_h^T bq_h / sqrt(HEADS D).
        offset_bias: (n,) bq_h^T bk_h / sqrt(HEADS D).
        value: (n C, C, 1, 1) P Wv_h, with the projection P.
        value_bias: (n C,) P bv_h.
    """

    score: Tensor
    score_bias: Tensor
    offset: Tensor
    offset_bias: Tensor
    value: Tensor
    value_bias: Tensor


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """1x1 convolution of (B, C, h, w)."""
    # Dilation does not change a 1x1 convolution, but makes torch use oneDNN even with one thread.
    # That is faster forward and slower backward.
    plain = x.device.type != 'cpu' or torch.is_grad_enabled() or torch.compiler.is_compiling()
    return F.conv2d(x, weight, bias, dilation=1 if plain else 2)


class PixelConv(nn.Conv2d):
    """1x1 convolution."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, h, w) -> (B, out, h, w)."""
        return convolve(x, self.weight, self.bias)


def head_weights(other: Tensor, keys: Sequence[Tensor], offsets: Tensor) -> Tensor:
    """softmax_h(<q_h, k_h> / sqrt(HEADS D)), for each pixel separately.

    Args:
        other: (B, C, h, w), features of the other task, from which the queries q come.
        keys: for each head but the first (B, C, h, w): own features after the convolution
            ``score`` of :class:`Merged`.
        offsets: (B, HEADS - 1, h, w), own features after the convolution ``offset``.

    Returns:
        (B, HEADS, h, w), with the first head's weights.
    """
    # 4-D operations, which every runtime and memory format is fast at.
    scores = torch.cat([(key * other).sum(1, keepdim=True) for key in keys], 1) + offsets
    return F.softmax(torch.cat([torch.zeros_like(scores[:, :1]), scores], 1), 1)


def weighted_sum(features: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """Sum of the features (B, C, h, w), each multiplied by its weights (B, 1, h, w)."""
    total, *others = features
    total = total * weights[0]
    for x, weight in zip(others, weights[1:], strict=True):
        total = torch.addcmul(total, x, weight)
    return total


def _attend(own: Tensor, other: Tensor, merged: Merged) -> tuple[Tensor, Tensor, Tensor]:
    """Attend to the own features (B, C, h, w) by those of the other task.

    Returns:
        sum_h weight_h P v_h less the first head's P v, (B, C, h, w); the :func:`head_weights`; and
        the keys of all heads in one tensor.
    """
    keys = convolve(own, merged.score, merged.score_bias)
    offsets = convolve(own, merged.offset, merged.offset_bias)
    weights = head_weights(other, keys.chunk(HEADS - 1, 1), offsets)
    values = convolve(own, merged.value, merged.value_bias).chunk(HEADS - 1, 1)
    return weighted_sum(values, weights.split(1, 1)[1:]), weights, keys


class _Attend(torch.autograd.Function):
    """The first output of :func:`_attend`, without keeping the values for the backward pass.

    The values would take HEADS - 1 times the memory of the input. With own features x, values
    V_h x + c_h and weights w_h, the output is z = sum_h w_h (V_h x + c_h). If g is the gradient of
    the loss by z, the gradient by w_h is <V_h^T g, x> + <c_h, g>, and V_h^T g is needed anyway for
    the gradient by x.
    """

    @staticmethod
    def forward(ctx, own: Tensor, other: Tensor, *merged: Tensor) -> Tensor:
        attended, *found = _attend(own, other, Merged(*merged))
        ctx.save_for_backward(own, other, *found, *merged)
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, ...]:
        own, other, weights, keys, *merged = ctx.saved_tensors
        merged, heads = Merged(*merged), HEADS - 1
        gradient, weights = gradient.to(own.dtype), weights[:, 1:]

        def of_conv(
            of_output: Tensor, weight: Tensor, of_own: bool = True
        ) -> tuple[Tensor | None, Tensor, Tensor]:
            """Gradients of a 1x1 convolution of ``own`` by its input, weight and bias.

            That by the input is ``None`` without ``of_own``.
            """
            return torch.ops.aten.convolution_backward(
                of_output.to(own.dtype),
                own,
                weight,
                [len(weight)],
                [1, 1],
                [0, 0],
                [1, 1],
                False,
                [0, 0],
                1,
                [of_own, True, True],
            )

        def times(features: Tensor, factors: Tensor) -> Tensor:
            """Features (B, C, h, w) times each factor (B, heads, h, w): (B, heads C, h, w)."""
            return torch.cat([features * factor for factor in factors.split(1, 1)], 1)

        # Through the values to the weights.
        _, *of_value = of_conv(times(gradient, weights), merged.value, of_own=False)
        turned = merged.value.unflatten(0, (heads, -1)).transpose(1, 2).flatten(0, 1)
        turned = F.conv2d(gradient, turned.contiguous()).chunk(heads, 1)
        of_weights = F.conv2d(gradient, merged.value_bias.view(heads, -1, 1, 1))
        of_weights = of_weights + torch.cat([(x * own).sum(1, keepdim=True) for x in turned], 1)
        of_own = weighted_sum(turned, weights.split(1, 1))
        del turned
        # Through softmax and the scores.
        of_scores = weights * (of_weights - (weights * of_weights).sum(1, keepdim=True))
        of_other = weighted_sum(keys.chunk(heads, 1), of_scores.split(1, 1))
        by_keys, *of_score = of_conv(times(other, of_scores), merged.score)
        by_offsets, *of_offset = of_conv(of_scores, merged.offset)
        assert by_keys is not None and by_offsets is not None
        return of_own + by_keys + by_offsets, of_other, *of_score, *of_offset, *of_value


class CrossTaskAttention(nn.Module):
    """Refine the features of one task by those of another.

    Each pixel's queries come from the other task, its keys and values from its own, in four
    embeddings; the softmax is over the embeddings, not over pixels.

    Args:
        channels: number of channels of both tasks' features.
        ratio: channels of an embedding over ``channels``.
    """

    def __init__(self, channels: int, ratio: int = 2) -> None:
        super().__init__()
        self.query, self.key, self.value = (
            PixelConv(channels, HEADS * ratio * channels) for _ in range(3)
        )
        self.project = PixelConv(ratio * channels, channels, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.fuse = ReflectConv(2 * channels, channels)
        self.out = PixelConv(channels, channels)

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        """Features (B, C, h, w) of both tasks -> refined features of ``own`` (B, C, h, w)."""
        pixels, channels = own[:, 0].numel(), own.shape[1]
        # Merging the matrices costs as much as the embeddings of about ``channels`` pixels.
        attended = (self._merged if pixels > channels else self._embed)(own, other)
        return self.out(self.fuse(own, self.norm(attended)))

    def _merged(self, own: Tensor, other: Tensor) -> Tensor:
        """The attended values (B, C, h, w) by the products of the embeddings' matrices."""
        merged, *first = self.merge()
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            attended, *_ = _attend(own, other, merged)
        else:
            attended = _Attend.apply(*autocast(own, other, *merged))
        return attended + convolve(own, *first)

    def _embed(self, own: Tensor, other: Tensor) -> Tensor:
        """The attended values (B, C, h, w) by the embeddings themselves."""
        query, key, value = (
            layer(x).unflatten(1, (HEADS, -1))
            for layer, x in ((self.query, other), (self.key, own), (self.value, own))
        )
        scores = (query * key).sum(2) / self.query.out_channels**0.5
        return self.project((F.softmax(scores, 1)[:, :, None] * value).sum(1))

    def merge(self) -> tuple[Merged, Tensor, Tensor]:
        """Merge the matrices, differentiably, and in full precision even under autocast.

        Returns:
            The merged matrices, and the first head's P Wv (C, C, 1, 1) and P bv (C,).
        """
        with torch.autocast(self.query.weight.device.type, enabled=False):
            (wq, bq), (wk, bk), (wv, bv) = (
                (layer.weight.flatten(1).unflatten(0, (HEADS, -1)), _bias(layer).view(HEADS, -1, 1))
                for layer in (self.query, self.key, self.value)
            )
            scale = self.query.out_channels**-0.5
            wq, bq = scale * wq.transpose(1, 2), scale * bq.transpose(1, 2)
            projection = self.project.weight.flatten(1)
            products = (
                wq @ wk,
                (wq @ bk)[..., 0],
                bq @ wk,
                (bq @ bk)[..., 0],
                projection @ wv,
                (projection @ bv)[..., 0],
            )
            merged = ((x[1:] - x[0]).flatten(0, 1) for x in products)
            value, value_bias = (x[0] for x in products[4:])
            return (
                Merged(*(x[:, :, None, None] if x.dim() == 2 else x for x in merged)),
                value[:, :, None, None],
                value_bias,
            )


class FusedAttention(nn.Module):
    """A trained :class:`CrossTaskAttention` for inference: merged matrices, batch norm folded."""

    def __init__(self, attention: CrossTaskAttention) -> None:
        super().__init__()
        dtype = attention.out.weight.dtype
        attention = copy.deepcopy(attention).double().requires_grad_(False)
        merged, first, first_bias = attention.merge()
        norm, conv = attention.norm, attention.fuse
        assert norm.running_mean is not None and norm.running_var is not None  # as by default
        factor = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = factor * (first_bias - norm.running_mean) + norm.bias
        # The first head's value is a matrix times ``own``. It is folded into the convolution that
        # follows: reflection padding commutes with what acts on each pixel separately.
        of_own, of_attended = conv.weight.chunk(2, 1)
        of_first = torch.einsum('oikl,ij->ojkl', of_attended, factor[:, None] * first[:, :, 0, 0])
        _bias(conv).add_(torch.einsum('oikl,i->o', of_attended, shift))
        conv.weight.copy_(torch.cat([of_own + of_first, of_attended], 1))
        factor = factor.repeat(HEADS - 1)
        merged = merged._replace(
            value=factor.view(-1, 1, 1, 1) * merged.value, value_bias=factor * merged.value_bias
        )
        # One convolution per head: int8 runtimes convert to float in order to split tensors.
        self.score = _convolutions(merged.score, merged.score_bias, HEADS - 1)
        (self.offset,) = _convolutions(merged.offset, merged.offset_bias, 1)
        self.value = _convolutions(merged.value, merged.value_bias, HEADS - 1)
        self.fuse = attention.fuse
        self.out: nn.Module = attention.out
        self.to(dtype)

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        """The same as :class:`CrossTaskAttention` in eval mode."""
        weights = head_weights(other, [score(own) for score in self.score], self.offset(own))
        values = [value(own) for value in self.value]
        return self.out(self.fuse(own, weighted_sum(values, weights.split(1, 1)[1:])))

    @torch.no_grad()
    def move_out_into(self, conv: ReflectConv) -> None:
        """Fold the last 1x1 convolution into ``conv``, the only reader of the refined features.

        It acts on each pixel separately, so it commutes with reflection padding.
        """
        last = cast(PixelConv, self.out)
        out, bias = last.weight[:, :, 0, 0].double(), _bias(last).double()
        weight = conv.weight.double()
        _bias(conv).add_(torch.einsum('oikl,i->o', weight, bias))
        conv.weight.copy_(torch.einsum('oikl,ij->ojkl', weight, out))
        self.out = nn.Identity()


def _bias(layer: nn.Conv2d) -> Tensor:
    """The bias of a layer that has one."""
    assert layer.bias is not None
    return layer.bias


def _convolutions(weight: Tensor, bias: Tensor, parts: int) -> nn.ModuleList:
    """Divide a 1x1 convolution, weights (O, I, 1, 1) and biases (O,), into ``parts`` equal ones."""
    layers = nn.ModuleList()
    for part, part_bias in zip(weight.chunk(parts), bias.chunk(parts), strict=True):
        layer = PixelConv(part.shape[1], part.shape[0]).to(part.dtype).requires_grad_(False)
        layer.weight.copy_(part)
        _bias(layer).copy_(part_bias)
        layers.append(layer)
    return layers
