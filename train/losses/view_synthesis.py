"""View synthesis as supervision: how well the warped neighbours explain the target image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from depth_ros.inference.classes import MOVABLE
from train.geometry import Projection, in_view, project, sample, scale_intrinsics
from train.losses import consistency
from train.losses.explainability import explainability_weights
from train.losses.photometric import PhotometricLoss
from train.losses.reduction import weight_of_each
from train.losses.term import Need, Step, Term
from train.setting import setting

REDUCTIONS = ('minimum', 'mean')

BAND_PIXELS = 65_536
BAND_ROWS = 24
"""Least pixels and rows of a band: with smaller ones, calls take longer than arithmetic."""


class Synthesis(NamedTuple):
    """What one disparity map makes of the sources.

    Attributes:
        loss: scalar.
        error: (B, 1, H, W), whose mean over the pixels that count is the loss; 0 elsewhere.
        warped: per source, its image seen from the target (B, 3, H, W).
        valid: per source, the pixels that count (B, 1, H, W), bool.
        moving: (B, 1, H, W) bool, pixels that count and that the motion explains better than no
            motion does; without auto-masking, all pixels that count.
    """

    loss: Tensor
    error: Tensor
    warped: list[Tensor]
    valid: list[Tensor]
    moving: Tensor


class _MeanOfBands(torch.autograd.Function):
    """A mean over pixels, computed in bands of rows, with its gradient in the forward pass.

    Before the backward pass, the gradient of a mean is known up to one factor. So it is computed
    band by band, and what warping and SSIM need for it, some 25 images per source, is in memory for
    one band at a time.
    """

    @staticmethod
    def forward(
        ctx, function: Callable[..., tuple[Tensor, ...]], height: int, *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        needed = ctx.needs_input_grad[2:]
        gradients = [
            torch.zeros_like(x) if n else None for x, n in zip(inputs, needed, strict=True)
        ]
        sums, found = [], []
        for band in _bands(height, inputs[0]):
            with torch.enable_grad():
                leaves = [
                    band.read(x).detach().requires_grad_(n)
                    for x, n in zip(inputs, needed, strict=True)
                ]
                total, count, *others = function(band, *leaves)
            if any(needed):
                parts = iter(torch.autograd.grad(total, [x for x in leaves if x.requires_grad]))
                for gradient in gradients:
                    if gradient is not None:
                        band.read(gradient).add_(next(parts))
            sums.append(torch.stack([total.detach(), count.to(total.dtype)]))
            found.append([x.detach() for x in others])
        total, count = torch.stack(sums).sum(0)
        weight = weight_of_each(count)
        ctx.save_for_backward(*(g if g is None else g.mul_(weight) for g in gradients))
        others = [torch.cat(x, 2) for x in zip(*found, strict=True)]
        ctx.mark_non_differentiable(*others)
        return total * weight, *others

    @staticmethod
    def backward(ctx, factor: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(None if g is None else factor * g for g in ctx.saved_tensors)


class _Band(NamedTuple):
    """Rows of an image.

    Attributes:
        first, last: the rows that the SSIM windows of the band reach into; ``last`` excluded.
        top, bottom: the band's own rows; ``bottom`` excluded.
    """

    first: int
    top: int
    bottom: int
    last: int

    def read(self, x: Tensor) -> Tensor:
        """The rows ``first`` to ``last`` of an image (B, C, H, W); other tensors as a whole."""
        return x[:, :, self.first : self.last] if x.dim() == 4 else x

    def inner(self, x: Tensor) -> Tensor:
        """The band's own rows of what :meth:`read` returned."""
        return x[:, :, self.top - self.first : self.bottom - self.first]


def _bands(height: int, like: Tensor) -> Iterator[_Band]:
    """Bands that cover an image of the batch and width of ``like``."""
    rows = height
    if not like.is_cuda:  # on GPUs, more calls would take more time
        rows = max(BAND_ROWS, BAND_PIXELS // (len(like) * like.shape[3]))
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        yield _Band(max(0, top - 1), top, bottom, min(height, bottom + 1))


class ViewSynthesis:
    """Photometric loss of a target image and its sources, for any number of disparity maps.

    Everything that does not depend on the disparity (the target's SSIM statistics, the error of the
    unmoved sources, the rotational part of the projection) is computed once.

    A pixel counts for a source that sees it: in front of that camera and inside its image. The
    papers' code differs: SfMLearner's gives pixels outside the image a grey, FSRE-Depth's gives
    them the colour of the border. In both, a prediction that moves pixels out of view changes what
    the loss compares. ``validity=False`` counts out-of-view pixels with the border's colour as
    FSRE-Depth does, for comparisons with it; points behind a camera never count.

    Args:
        target: (B, 3, H, W) in 0..1.
        sources: images (B, 3, H, W) in 0..1.
        transforms: per source, T_source_target (B, 4, 4).
        intrinsics: (B, 3, 3) at this size.
        ssim_weight: weight of SSIM, the rest is L1; 0 is SfMLearner's L1. (Its images are in
            -1..1: twice the error.)
        reduction: 'minimum': the least error over the sources (Godard et al. 2019, eq. 4), mean
            over the pixels that any source sees. 'mean': over all pixels that sources see.
        automask: use the error of the unmoved source where that is less (ibid., eq. 5): what
            does not move in the image (still cars ahead, a standing robot) teaches nothing.
        keep: (B, 1, H, W) bool, pixels that may count, such as those of classes that cannot move.
        validity: see above.
        noise: generator of the noise of 1e-5 that decides between motion and no motion where
            both explain a pixel equally well.

    Raises:
        ValueError: if ``reduction`` is unknown.
    """

    def __init__(
        self,
        target: Tensor,
        sources: Sequence[Tensor],
        transforms: Sequence[Tensor],
        intrinsics: Tensor,
        *,
        ssim_weight: float = 0.85,
        reduction: str = 'minimum',
        automask: bool = True,
        keep: Tensor | None = None,
        validity: bool = True,
        noise: torch.Generator | None = None,
    ) -> None:
        if reduction not in REDUCTIONS:
            raise ValueError(f'reduction {reduction!r}, must be one of {REDUCTIONS}')
        self.size = target.shape[2:]
        self.sources = list(sources)
        self.reduction = reduction
        self.keep = keep
        self.validity = validity
        self.photometric = PhotometricLoss(target, ssim_weight)
        self.projections = [Projection(t, intrinsics, *self.size) for t in transforms]
        self.identity = None
        if automask:
            errors = torch.stack([self.photometric(source) for source in sources])
            errors = errors + 1e-5 * torch.randn(
                errors.shape, generator=noise, dtype=errors.dtype, device=errors.device
            )
            self.identity = errors.amin(0, keepdim=True) if reduction == 'minimum' else errors

    def __call__(self, disparity: Tensor, weights: Sequence[Tensor] | None = None) -> Synthesis:
        """Compare the target with the sources, warped by a disparity map.

        Args:
            disparity: (B, 1, h, w), 1/depth; upsampled to the images' size if smaller
                (Godard et al. 2019, section 3.2).
            weights: per source (B, 1, h, w), factors of its error: explainability (SfMLearner,
                eq. 3) or geometric consistency. The source of least error is chosen without
                them, so that no source wins by a low weight.

        Returns:
            The result; only its loss can be differentiated.

        Raises:
            ValueError: if no pixel counts.
        """
        loss, error, moving, *images = _MeanOfBands.apply(
            self._compare,
            self.size[0],
            self._resize(disparity),
            *(p.matrix for p in self.projections),
            *map(self._resize, weights or ()),
        )
        views = len(self.sources)
        return Synthesis(loss, error, images[:views], images[views:], moving)

    def plain(self, disparity: Tensor, weights: Sequence[Tensor] | None = None) -> Tensor:
        """The same loss as :meth:`__call__`, on whole images and differentiated by autograd.

        Tests compare with it.
        """
        height = self.size[0]
        total, count, *_ = self._compare(
            _Band(0, 0, height, height),
            self._resize(disparity),
            *(p.matrix for p in self.projections),
            *map(self._resize, weights or ()),
        )
        return total / count

    def _compare(self, band: _Band, disparity: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Compare the rows of a band.

        Args:
            band: the rows.
            disparity: (B, 1, rows, W), of all rows that the band reads.
            tensors: the projection matrix of each source, then the weights of each, of the same
                rows.

        Returns:
            The sum of the errors, their number, and of the band's own rows ``error``, ``moving``,
            the ``warped`` images and the ``valid`` masks of a :class:`Synthesis`.
        """
        matrices, weights = tensors[: len(self.sources)], tensors[len(self.sources) :]
        warped, valid = [], []
        for source, matrix in zip(self.sources, matrices, strict=True):
            grid, _, counts = project(disparity, matrix, band.first)
            if self.validity:
                counts = counts & in_view(grid)
            if self.keep is not None:
                counts = counts & band.read(self.keep)
            warped.append(sample(source, grid))
            valid.append(band.inner(counts))
        errors = torch.stack([band.inner(self.photometric(image, band.first)) for image in warped])
        seen = torch.stack(valid)
        factors = torch.stack([band.inner(w) for w in weights]) if weights else None
        identity = None if self.identity is None else self.identity[..., band.top : band.bottom, :]
        if self.reduction == 'minimum':
            # A source that does not see the pixel must not win.
            errors, best = errors.masked_fill(~seen, torch.inf).min(0, keepdim=True)
            seen = seen.any(0, keepdim=True)
            factors = None if factors is None else factors.gather(0, best)
        moving = seen if identity is None else seen & (errors < identity)
        errors = errors.masked_fill(~seen, 0)
        if factors is not None:
            errors = errors * factors
        if identity is not None:
            errors = torch.where(moving, errors, identity).masked_fill(~seen, 0)
        sources = seen.sum(0)
        return (
            errors.sum(),
            sources.sum(),
            errors.sum(0) / sources.clamp(min=1),
            moving.any(0),
            *map(band.inner, warped),
            *valid,
        )

    def _resize(self, x: Tensor) -> Tensor:
        if x.shape[2:] == self.size:
            return x
        return F.interpolate(x, self.size, mode='bilinear', align_corners=False)


def _term(step: Step) -> Tensor:
    """sum_s d^s of each disparity's photometric loss, d = ``scale_decay``."""
    settings = step.settings
    weights = _weights(step)
    keep = None
    if settings.moving == 'semantic':
        labels = step.batch['labels']
        keep = ~torch.isin(labels, labels.new_tensor(MOVABLE))[:, None]
    watched = step.batch.get('watched')
    if watched is not None and not watched.all():
        if not watched.any():
            return step.disparity.sum() * 0
        seen = watched[:, None, None, None].expand(-1, 1, *step.size)
        keep = seen if keep is None else keep & seen
    views: dict[tuple[int, ...], ViewSynthesis] = {}
    losses = []
    for s, disparity in enumerate(step.disparities):
        size = step.size if settings.full_resolution else tuple(disparity.shape[2:])
        if size not in views:
            views[size] = _view_synthesis(step, keep, size)
        synthesis = views[size](disparity, weights[s] if weights else None)
        losses.append(synthesis.loss * settings.scale_decay**s)
        # Only the finest scale is kept, for pictures: the others would only take memory.
        step.synthesis = step.synthesis or synthesis
    step.trust = weights[0] if weights else None
    return torch.stack(losses).sum()


def _weights(step: Step) -> list[list[Tensor]]:
    """Weights of the errors, by scale, then source; empty where all pixels count alike."""
    if step.settings.moving == 'consistency':
        return [step.once(consistency.compare)[1]] * len(step.disparities)
    return [explainability_weights(m.float()) for m in step.motion.masks]


def _view_synthesis(step: Step, keep: Tensor | None, size: tuple[int, ...]) -> ViewSynthesis:
    """The view synthesis of a step's images, shrunk to ``size``."""
    settings, (height, width) = step.settings, step.size
    frames, intrinsics = list(step.images.unbind(1)), step.motion.intrinsics
    if size != (height, width):
        # Means over pixel areas, as in SfMLearner.
        frames = [F.interpolate(x, size, mode='area') for x in frames]
        intrinsics = scale_intrinsics(intrinsics, size[1] / width, size[0] / height)
        if keep is not None:
            keep = F.interpolate(keep.float(), size, mode='nearest-exact') > 0
    return ViewSynthesis(
        frames.pop(step.target),
        frames,
        _transforms(step),
        intrinsics,
        ssim_weight=settings.ssim,
        reduction=settings.reduction,
        automask=settings.automask,
        keep=keep,
        validity=settings.validity,
        noise=step.noise,
    )


def _transforms(step: Step) -> list[Tensor]:
    """The known motion, if the settings ask for it; the network's where it is not known."""
    if not step.settings.known_motion:
        return step.motion.transforms
    transforms = []
    known_motion = step.batch['motion'].unbind(1)
    for found, truth in zip(step.motion.transforms, known_motion, strict=True):
        known = truth.isfinite().all(2).all(1)[:, None, None]
        transforms.append(torch.where(known, truth.nan_to_num(), found))
    return transforms


TERM = Term(
    name='photometric',
    help='weight of view synthesis; 0: none',
    function=_term,
    weight=1.0,
    needs=(
        Need('transforms', 'photometric'),
        Need('transforms', 'moving', 'consistency'),
        Need('labels', 'moving', 'semantic', instead='set moving: none'),
        Need('source_disparities', 'moving', 'consistency'),
        Need('motion', 'known_motion'),
    ),
    settings={
        'ssim': setting('share of SSIM in the photometric error; the rest is L1', 0.85),
        'reduction': setting(
            'over the sources: minimum (Godard et al.) or mean (SfMLearner)',
            'minimum',
            REDUCTIONS,
        ),
        'automask': setting('pixels that no motion explains better do not count', True),
        'validity': setting(
            'pixels that a source does not see do not count; false: they count with the '
            "border's colour, as in the code of FSRE-Depth",
            True,
        ),
        'full_resolution': setting('judge every scale at full resolution; false: at its own', True),
        'scale_decay': setting('weight of the photometric error from one scale to the next', 0.5),
        'known_motion': setting(
            'view synthesis by the motion that is known (reconstruction, poses), and by that of '
            'the pose network elsewhere',
            False,
        ),
        'moving': setting(
            'moving objects: none; semantic: movable classes do not count; '
            'consistency: weight by the consistency of depth (SC-SfMLearner)',
            'none',
            ('none', 'semantic', 'consistency'),
        ),
    },
)
