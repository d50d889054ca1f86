"""What a term of the training loss declares, and what it is computed from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from train.networks.prediction import Motion, Prediction, resize

T = TypeVar('T')


class Need(NamedTuple):
    """Something that a term cannot do without.

    Attributes:
        what: an output of a network ('logits', 'features', 'transforms', 'masks'), the disparities
            of the source images ('source_disparities'), or ground truth that the data set must
            have ('labels', 'distance', 'depth', 'points', 'motion').
        setting: the setting that causes the need; error messages name it.
        value: the value of that setting that causes the need; ``None``: any but 0.
        instead: what a user without it can do, as the end of an error message.
    """

    what: str
    setting: str
    value: Any = None
    instead: str = ''

    def applies(self, settings: Any) -> bool:
        """Whether a training with these settings has this need."""
        value = getattr(settings, self.setting)
        return bool(value) if self.value is None else value == self.value


@dataclass
class Step:
    """Everything that the terms of the loss of one batch are computed from.

    Attributes:
        settings: the training's :class:`~train.training.config.Config`.
        batch: as collated from :class:`train.data.dataset.FrameDataset`.
        images: (B, views, 3, H, W) in 0..1, as recorded: not changed in colour.
        target: index of the target among the views.
        prediction: of the target images.
        disparities: the prediction's, in full precision: (B, 1, h, w), finest first.
        source_disparities: per source (B, 1, H, W); empty if no term needs them.
        motion: from the target to the sources.
        noise: generator of the auto-mask's noise.
        synthesis: what the view synthesis made of the finest disparity, for pictures; ``None``
            before it is computed.
        trust: per source its weight (B, 1, h, w) at the finest scale, likewise.
    """

    settings: Any
    batch: dict[str, Tensor]
    images: Tensor
    target: int
    prediction: Prediction
    disparities: list[Tensor]
    source_disparities: list[Tensor]
    motion: Motion
    noise: torch.Generator | None = None
    synthesis: Any = None
    trust: list[Tensor] | None = None
    _results: dict[Callable, Any] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images."""
        return self.images.shape[-2], self.images.shape[-1]

    @cached_property
    def disparity(self) -> Tensor:
        """The finest disparity at the images' size (B, 1, H, W)."""
        return resize(self.disparities[0], *self.size)

    def once(self, function: Callable[[Step], T]) -> T:
        """``function(self)``, computed at the first call only: for what several terms share."""
        if function not in self._results:
            self._results[function] = function(self)
        return self._results[function]

    def has(self, what: str) -> bool:
        """Whether this step can satisfy a :class:`Need`."""
        outputs = {
            'logits': self.prediction.logits is not None,
            'features': bool(self.prediction.features),
            'transforms': bool(self.motion.transforms),
            'masks': bool(self.motion.masks),
            'source_disparities': bool(self.source_disparities),
        }
        return outputs.get(what, what in self.batch)


@dataclass(frozen=True, kw_only=True)
class Term:
    """One term of the loss. Its file declares it, :mod:`train.losses.table` lists it.

    Attributes:
        name: of the term in the logs, and of the setting that is its weight.
        help: explains that setting.
        function: the term's value, a scalar, of a :class:`Step`.
        weight: default of the setting; the term is not computed where the weight is 0.
        needs: what it cannot do without.
        settings: its other settings by name, each made by :func:`train.setting.setting`.
        requires: values that other settings must have where the term is on.
        switch: the setting that turns the term on, where that is not the weight.
        weight_setting: name of the weight's setting, where that is not ``name``.
        metric: it makes a model unit a metre.
        always: compute the term even with weight 0, if the step has what it needs: all parameters
            then have a gradient, which training on several processes demands.
    """

    name: str
    help: str
    function: Callable[[Step], Tensor]
    weight: float = 0.0
    needs: tuple[Need, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    requires: Mapping[str, Any] = field(default_factory=dict)
    switch: str = ''
    weight_setting: str = ''
    metric: bool = False
    always: bool = False

    def weight_in(self, settings: Any) -> float:
        """Its weight in a training with these settings; 0 where it is off."""
        if self.switch and not getattr(settings, self.switch):
            return 0.0
        return getattr(settings, self.weight_setting or self.name)

    def is_computed(self, step: Step) -> bool:
        """Whether a step computes the term."""
        if self.always and all(step.has(need.what) for need in self.needs):
            return True
        return self.weight_in(step.settings) != 0
