from __future__ import annotations

import pytest
import torch

from compress.nets import build
from edgekd.compress import quantization, simulation
from edgekd.device import Scheme


@pytest.mark.parametrize("name", ["residual", "mobile"])
def test_a_graph_runs_as_floats_or_as_its_integers_and_stays_as_it_is(name: str) -> None:
    model, x, _ = build(name)
    prepared = quantization.prepare(model, (x[:2],), Scheme(activations="u8"))
    quantization.calibrate(prepared, [x / 2])
    before = quantization.observed_state(prepared)
    given: list[torch.Tensor] = []
    last = next(node for node in prepared.graph.nodes if node.op == "output").args[0]
    looks = {(last[0] if isinstance(last, tuple | list) else last).name: given.append}
    simulation.run(prepared, [x], looks, integers=False)
    simulation.run(prepared, [x], looks, integers=True)
    with torch.no_grad():
        torch.testing.assert_close(given[0], model(x), rtol=1e-4, atol=1e-4)
        expected = quantization.convert(prepared)(x)
    rounding = float((given[0] - expected).abs().mean())
    assert float((given[1] - expected).abs().mean()) < rounding / 20
    after = prepared.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
