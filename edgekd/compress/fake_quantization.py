"""Training with the rounding of integers in the forward pass (Jacob et al. 2018, arXiv:1712.05877, section 3).

The graph is the one that calibration works on, annotated by the same rules. While it is trained, each of its observers
is wrapped: what passes is rounded as the observer's integers would, and gradients pass as if it were not, but for
values outside of the range (straight-through). Afterwards the observers are put back, with the ranges that they then
have, and the rest of the way is that of post-training quantization. BatchNorm is folded before: nothing of it is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from edgekd.compress.bucketing import BucketedWeight, Untouched
from edgekd.compress.histograms import Histogram
from edgekd.compress.pt2e import MinMaxObserver, PerChannelMinMaxObserver
from edgekd.compress.quantization import activation_observers, observe_weight, settle, weight_observers
from edgekd.errors import StageError

FOLLOWED = 0.01
"""How far the range of an activation moves towards that of each batch."""
FROZEN_AFTER = 2 / 3
"""Of the training; in the rest of it, the ranges of activations stay as they are and the weights adapt to them."""

Observer: TypeAlias = MinMaxObserver | PerChannelMinMaxObserver


def _scale(observer: Observer) -> tuple[Tensor, Tensor]:
    """Return the scale and the zero point of what was observed.

    Raises:
        StageError: it is NaN or infinite; no integers stand for that, and what they hold would look like numbers.
    """
    if not bool(torch.isfinite(observer.max_val - observer.min_val).all()):
        raise StageError(
            "quantize: the training with the integers ran away, values became NaN or infinite; lower "
            "quantize.learning_rate, or set student.gradient_clip"
        )
    scale, zero_point = observer.calculate_qparams()
    return scale, zero_point


class FakeActivation(nn.Module):
    """Rounds an activation; its range follows those of the batches, until it is frozen.

    Args:
        observer: with the range that calibration found.
        kept: the parts of the smallest and the largest value that calibration left in the range; it stays so.
        updates: how often the range moves.
    """

    kind = ""
    """It stands for none of the network's layers."""
    seen: Tensor

    def __init__(self, observer: MinMaxObserver, kept: tuple[float, float], updates: int) -> None:
        super().__init__()
        self.observer = observer
        self._kept, self._updates = kept, updates
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Return what the integers hold of it, in its own shape."""
        if self.training and int(self.seen) < self._updates:
            self._follow(x.detach())
        scale, zero_point = _scale(self.observer)
        return torch.fake_quantize_per_tensor_affine(
            x, scale, zero_point.int(), self.observer.quant_min, self.observer.quant_max
        )

    def _follow(self, x: Tensor) -> None:
        low, high = x.aminmax()
        self.observer.min_val.lerp_(low.clamp(max=0) * self._kept[0], FOLLOWED)
        self.observer.max_val.lerp_(high.clamp(min=0) * self._kept[1], FOLLOWED)
        self.seen += 1


class FakeWeight(nn.Module):
    """Rounds a weight; its range is always all of it."""

    kind = ""

    def __init__(self, observer: Observer) -> None:
        super().__init__()
        self.observer = observer

    def forward(self, weight: Tensor) -> Tensor:
        """Return what the integers hold of it, in its own shape."""
        observer = self.observer
        observe_weight(observer, weight.detach())
        scale, zero_point = _scale(observer)
        if isinstance(observer, PerChannelMinMaxObserver):
            return torch.fake_quantize_per_channel_affine(
                weight, scale, zero_point.int(), observer.ch_axis, observer.quant_min, observer.quant_max
            )
        return torch.fake_quantize_per_tensor_affine(
            weight, scale, zero_point.int(), observer.quant_min, observer.quant_max
        )


def begin(
    prepared: GraphModule,
    seen: Mapping[str, Histogram],
    forwards: int,
    buckets: tuple[int, int] | None = None,
) -> dict[str, Observer]:
    """Make a calibrated graph train, in place: everything in it that is a parameter.

    Args:
        seen: what calibration saw of each observer, where it may have left something out.
        forwards: how many training batches, or parts of them, will pass.
        buckets: the bits of a weight and the size of a bucket, where weights alone are rounded.

    Returns:
        The observers, which `end` puts back.
    """
    updates = round(forwards * FROZEN_AFTER)
    fakes: dict[Observer, nn.Module] = {
        observer: FakeActivation(observer, _kept(observer, seen.get(name)), updates)
        for name, observer in activation_observers(prepared)
    }
    fakes |= {observer: FakeWeight(observer) for _, observer in weight_observers(prepared)}
    if buckets is not None:
        fakes = {
            observer: BucketedWeight(*buckets) if isinstance(fake, FakeWeight) else Untouched()
            for observer, fake in fakes.items()
        }
    modules = dict(prepared.named_modules(remove_duplicate=False))
    own = {name: module for name, module in modules.items() if module in fakes}
    for name, observer in own.items():
        prepared.set_submodule(name, fakes[observer])
    # An exported graph refuses to change its mode, because its operators would not: only what is put in here has modes.
    del prepared.train, prepared.eval
    prepared.requires_grad_(True)  # folding BatchNorm makes biases that nothing trains
    return own


def end(prepared: GraphModule, observers: Mapping[str, Observer]) -> None:
    """Put the observers back, with ranges that fit the weights: the graph is ready to be converted."""
    prepared.eval()
    for name, observer in observers.items():
        prepared.set_submodule(name, observer)
    for weight, observer in weight_observers(prepared):
        observe_weight(observer, prepared.get_parameter(weight).detach())
    settle(prepared)


def _kept(observer: MinMaxObserver, seen: Histogram | None) -> tuple[float, float]:
    """Return which parts of the smallest and of the largest value calibration left in a range."""
    if seen is None:
        return 1.0, 1.0
    low, high = float(observer.min_val), float(observer.max_val)
    return (
        low / seen.smallest if low < 0 and seen.smallest < 0 else 1.0,
        high / seen.largest if high > 0 and seen.largest > 0 else 1.0,
    )
