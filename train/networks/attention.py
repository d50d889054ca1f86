"""Cross-task multi-embedding attention (FSRE-Depth, section 3.3)."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.networks.unet import reflect_block

HEADS = 4


class Merged(NamedTuple):
    """Products of the embeddings' matrices, in which attention needs 8 C^2 operations a pixel in
    place of the embeddings' own 26 C^2. For head h with embeddings of D channels:

    Attributes:
        score: (HEADS, C, C) Wq_h^T Wk_h / sqrt(HEADS D).
        score_bias: (HEADS, C) Wq_h^T bk_h / sqrt(HEADS D).
        offset: (HEADS, C) Wk_h^T bq_h / sqrt(HEADS D).
        offset_bias: (HEADS,) bq_h^T bk_h / sqrt(HEADS D).
        value: (HEADS, C, C) P Wv_h, with the projection P.
        value_bias: (HEADS, C) P bv_h.
    """

    score: Tensor
    score_bias: Tensor
    offset: Tensor
    offset_bias: Tensor
    value: Tensor
    value_bias: Tensor


def attend(own: Tensor, other: Tensor, merged: Merged) -> Tensor:
    """sum_h softmax_h(<q_h, k_h> / sqrt(HEADS D)) P v_h, at every pixel by itself.

    Args:
        own: (B, C, h, w) of the task to refine, whence keys k and values v.
        other: (B, C, h, w) of the other task, whence queries q.
        merged: of the embeddings.

    Returns:
        (B, C, h, w).
    """
    offsets = F.conv2d(own, merged.offset[:, :, None, None], merged.offset_bias)
    # A loop over few heads: 4-D operations, which every runtime and memory format is fast at.
    scores = [(F.conv2d(own, matrix[:, :, None, None], bias) * other).sum(1, keepdim=True)
              for matrix, bias in zip(merged.score, merged.score_bias, strict=True)]
    weights = F.softmax(torch.cat(scores, 1) + offsets, 1)
    terms = [F.conv2d(own, matrix[:, :, None, None], bias) * weight
             for matrix, bias, weight in zip(merged.value, merged.value_bias,
                                             weights.split(1, 1), strict=True)]
    return sum(terms[1:], terms[0])


class CrossTaskAttention(nn.Module):
    """Refine the features of one task by those of another.

    Each pixel's queries come from the other task, its keys and values from its own, in four
    embeddings; the softmax is over the embeddings, not over pixels.

    Args:
        channels: of both tasks' features.
        ratio: channels of an embedding over ``channels``.
    """

    def __init__(self, channels: int, ratio: int = 2) -> None:
        super().__init__()
        self.query, self.key, self.value = (
            nn.Conv2d(channels, HEADS * ratio * channels, 1) for _ in range(3))
        self.project = nn.Conv2d(ratio * channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.fuse = reflect_block(2 * channels, channels)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        """Features (B, C, h, w) of both tasks -> refined features of ``own`` (B, C, h, w)."""
        pixels, channels = own[:, 0].numel(), own.shape[1]
        # To merge the matrices takes as long as the embeddings of about as many pixels.
        attended = (attend(own, other, self.merge()) if pixels > 2 * channels
                    else self._embed(own, other))
        return self.out(self.fuse(torch.cat([own, self.norm(attended)], 1)))

    def _embed(self, own: Tensor, other: Tensor) -> Tensor:
        """The same as :func:`attend`, by the embeddings themselves."""
        query, key, value = (layer(x).unflatten(1, (HEADS, -1)) for layer, x in (
            (self.query, other), (self.key, own), (self.value, own)))
        scores = (query * key).sum(2) / self.query.out_channels ** 0.5
        return self.project((F.softmax(scores, 1)[:, :, None] * value).sum(1))

    def merge(self) -> Merged:
        """The embeddings' products, differentiable; in full precision under autocast."""
        with torch.autocast(self.query.weight.device.type, enabled=False):
            (wq, bq), (wk, bk), (wv, bv) = (
                (layer.weight.flatten(1).unflatten(0, (HEADS, -1)),
                 layer.bias.view(HEADS, -1, 1)) for layer in (self.query, self.key, self.value))
            scale = self.query.out_channels ** -0.5
            wq, bq = scale * wq.transpose(1, 2), scale * bq.transpose(1, 2)
            projection = self.project.weight.flatten(1)
            return Merged(wq @ wk, (wq @ bk)[..., 0], (bq @ wk)[:, 0], (bq @ bk).flatten(),
                          projection @ wv, (projection @ bv)[..., 0])


class FusedAttention(nn.Module):
    """A trained :class:`CrossTaskAttention` for inference: merged matrices, batch norm folded."""

    def __init__(self, attention: CrossTaskAttention) -> None:
        super().__init__()
        dtype = attention.out.weight.dtype
        attention = copy.deepcopy(attention).double()
        with torch.no_grad():
            exact, norm = attention.merge(), attention.norm
            factor = norm.weight * (norm.running_var + norm.eps).rsqrt()
            # The weights of a pixel sum to 1, so that each head may carry the whole shift.
            merged = exact._replace(
                value=factor[:, None] * exact.value,
                value_bias=factor * (exact.value_bias - norm.running_mean) + norm.bias)
        for name, tensor in merged._asdict().items():
            self.register_buffer(name, tensor.to(dtype))
        self.fuse, self.out = attention.fuse.to(dtype), attention.out.to(dtype)

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        """As :class:`CrossTaskAttention` in eval mode."""
        attended = attend(own, other, Merged(*(getattr(self, n) for n in Merged._fields)))
        return self.out(self.fuse(torch.cat([own, attended], 1)))
