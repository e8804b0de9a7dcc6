from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from compress.nets import build
from edgekd.compress import histograms, quantization
from edgekd.compress.histograms import BINS, Histogram, Levels
from edgekd.device import Scheme

U8 = Levels(0, 255)
S8 = Levels(-127, 127, symmetric=True)
DRAWN = {
    "normal": lambda: torch.randn(5000),
    "relu": lambda: torch.randn(5000).relu(),
    "outliers": lambda: torch.cat([torch.randn(5000).relu(), torch.tensor([40.0, 60.0])]),
    "skewed": lambda: torch.randn(5000).exp() - 0.5,
    "negative": lambda: -torch.rand(5000) - 1,
    "shifted": lambda: torch.rand(5000) + 100,
    "tiny": lambda: torch.randn(5000) * 1e-20,
}


def drawn(name: str) -> Tensor:
    torch.manual_seed(3)
    return DRAWN[name]()


def counted(values: Tensor, parts: int = 1) -> Histogram:
    seen = Histogram()
    for part in values.chunk(parts):
        seen.add(part)
    return seen


@pytest.mark.parametrize("name", DRAWN)
def test_it_is_what_numpy_counts_whatever_the_order(name: str) -> None:
    values = drawn(name)
    for order in (values, values.sort().values, values.sort(descending=True).values):
        seen = counted(order, 37)
        edges = seen.edges()
        assert np.array_equal(edges, counted(values).edges())
        # numpy's last bin is closed: leave it out of the comparison by adding one that is empty
        expected, _ = np.histogram(values.double().numpy(), [*edges, edges[-1] + seen.width])
        assert np.array_equal(seen.counts.numpy(), expected[:-1])
        assert (seen.smallest, seen.largest) == (min(0.0, float(values.min())), max(0.0, float(values.max())))
        assert math.log2(seen.width).is_integer()
        assert len(seen.counts) == BINS


def test_what_is_not_finite_is_not_counted_and_zeros_are() -> None:
    seen = counted(torch.zeros(10))
    assert int(seen.counts.sum()) == 10
    for value in (math.nan, math.inf, -math.inf):
        seen.add(torch.tensor([1.0, value]))
    seen.add(torch.empty(0))
    assert int(seen.counts.sum()) == 10
    seen.add(torch.tensor([[1e30, -1e30]]))
    assert int(seen.counts.sum()) == 12


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("percent", [90.0, 99.9, 100.0])
def test_percentiles_are_those_of_numpy_within_a_bin(name: str, percent: float) -> None:
    values = drawn(name)
    seen = counted(values, 10)
    found = histograms.percentile(percent)(seen, U8)
    ranked, last = values.sort().values.tolist(), len(values) - 1
    for share, given in zip([1 - percent / 100, percent / 100], found, strict=True):
        # numpy's quantile lies between these two; where values are sparse, they are far apart
        low, high = ranked[max(math.floor(share * last) - 1, 0)], ranked[min(math.ceil(share * last) + 1, last)]
        assert low <= np.quantile(values.numpy(), share) <= high
        assert low - seen.width <= given <= high + seen.width


@pytest.mark.parametrize("levels", [U8, S8, Levels(0, 15)], ids=["u8", "s8", "u4"])
@pytest.mark.parametrize("name", ["normal", "outliers", "negative"])
def test_no_range_has_a_smaller_squared_error(name: str, levels: Levels) -> None:
    values = drawn(name)
    seen = counted(values, 10)

    def error(low: float, high: float) -> float:
        """Of the values themselves, by torch's own fake quantization."""
        if levels.symmetric:
            scale, zero = max(-low, high) / 127, 0
        else:
            scale = (high - low) / (levels.high - levels.low)
            zero = round(-low / scale)
        given = torch.fake_quantize_per_tensor_affine(values, scale, zero, levels.low, levels.high)
        return float((given - values).double().square().sum())

    chosen = error(*histograms.least_squares(seen, levels))
    shares = np.linspace(0.02, 1, 50)
    lows = shares * seen.smallest if seen.smallest else [0.0]
    highs = shares * seen.largest if seen.largest else [0.0]
    best = min(error(float(low), float(high)) for low in lows for high in highs)
    assert chosen <= best * 1.05
    assert chosen <= error(seen.smallest, seen.largest) * 1.001


def kl_of(counts: list[int], begin: int, end: int, levels: int) -> float:
    """KL(P || Q) written out bin by bin."""
    p = [float(count) for count in counts[begin:end]]
    q = [0.0] * len(p)
    groups: dict[int, list[int]] = {}
    for index in range(len(p)):
        groups.setdefault(index * levels // len(p), []).append(index)
    for members in groups.values():
        filled = [index for index in members if p[index] > 0]
        for index in filled:
            q[index] = sum(p[one] for one in members) / len(filled)
    p[0] += sum(counts[:begin])
    p[-1] += sum(counts[end:])
    total_p, total_q = sum(p), sum(q)
    if total_q == 0:
        return math.inf
    return sum(
        a / total_p * math.log((a / total_p) / max(b / total_q, np.finfo(float).tiny))
        for a, b in zip(p, q, strict=True)
        if a > 0
    )


@pytest.mark.parametrize("name", ["normal", "outliers"])
def test_no_range_loses_less_information(name: str) -> None:
    seen = counted(drawn(name), 10)
    low, high = histograms.least_information_lost(seen, U8)
    counts, results = seen.counts.tolist(), {}
    for share in np.linspace(1, 128, 128) / 128:
        begin = math.floor(share * seen.smallest / seen.width) - seen.first
        end = math.ceil(share * seen.largest / seen.width) - seen.first
        if end - begin >= 256:
            results[share] = kl_of(counts, begin, end, 256)
    best = min(results, key=lambda share: results[share])
    assert (low, high) == (best * seen.smallest, best * seen.largest)
    assert histograms.divergence(seen, low, high, 256) == pytest.approx(results[best], rel=1e-9)


def test_few_values_keep_their_whole_range() -> None:
    for values in (torch.zeros(5), torch.tensor([0.0, 1.0]), torch.full((9,), -3.0)):
        seen = counted(values)
        assert histograms.least_information_lost(seen, U8)[0] <= seen.smallest + seen.width


@pytest.mark.parametrize(
    "choose", [histograms.percentile(99.0), histograms.least_squares, histograms.least_information_lost]
)
@pytest.mark.parametrize("scheme", [Scheme(activations="u8"), Scheme(activations="s8", symmetric=True)])
def test_activations_are_narrowed_and_weights_are_not(choose: histograms.Chooser, scheme: Scheme) -> None:
    model, x, _ = build("residual")
    plain, narrowed = (quantization.prepare(model, (x[:2],), scheme) for _ in range(2))
    quantization.calibrate(plain, x.split(16))
    quantization.calibrate(narrowed, x.split(16), choose)
    activations = {name for name, _ in quantization.activation_observers(plain)}
    changed = 0
    for name, tensor in narrowed.state_dict().items():
        whole = plain.state_dict()[name]
        if name.rpartition(".")[0] not in activations:
            assert torch.equal(tensor, whole)
        elif name.endswith("max_val"):
            assert 0 <= float(tensor) <= float(whole)
            changed += not torch.equal(tensor, whole)
        else:
            assert float(tensor) >= float(whole)
    assert changed > 0 or choose is histograms.least_squares


def test_a_percentile_cuts_at_that_share_of_the_inputs() -> None:
    torch.manual_seed(0)
    model, x, _ = build("mlp")
    x = torch.randn(512, 3, 8, 8)
    prepared = quantization.prepare(model, (x[:2],), Scheme(activations="u8"))
    quantization.calibrate(prepared, x.split(100), histograms.percentile(99))
    _, observer = next(iter(quantization.activation_observers(prepared)))
    wanted = np.quantile(x.numpy(), [0.01, 0.99])
    assert [float(observer.min_val), float(observer.max_val)] == pytest.approx(list(wanted), abs=0.01)
