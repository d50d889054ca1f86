"""SfMLearner's explainability masks (section 3.3, figure 4b)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from train.networks.layers import crop_like, deconv_relu


class ExplainabilityDecoder(nn.Module):
    """Five transposed convolutions from the pose network's fifth feature; the last four have masks.

    Args:
        sources: number of source images; each has two channels, whose softmax says "not explained"
            and "explained".
        batch_norm: see :mod:`train.networks.layers`.
    """

    widths = (256, 128, 64, 32, 16)
    kernels = (3, 3, 3, 5, 7)

    def __init__(self, sources: int, batch_norm: bool = False) -> None:
        super().__init__()
        inputs = (256, *self.widths)
        self.up = nn.ModuleList(
            deconv_relu(inputs[i], inputs[i + 1], self.kernels[i], batch_norm) for i in range(5)
        )
        self.heads = nn.ModuleList(
            nn.Conv2d(self.widths[i], 2 * sources, self.kernels[i], padding=self.kernels[i] // 2)
            for i in range(1, 5)
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Mask logits (B, 2 sources, H/2^s, W/2^s), s = 0..3.

        Args:
            features: the pose network's input, then its first five features at 1/2 ... 1/32.
        """
        x = features[5]
        logits: list[Tensor] = []
        for i, up in enumerate(self.up):
            x = crop_like(up(x), features[4 - i])
            if i:
                logits.insert(0, self.heads[i - 1](x))
        return logits
