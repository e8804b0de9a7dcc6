"""Every file of the zoo gets its verdict: exactly these checks fail, and none on a sound one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekd import validate
from edgekd.recipe import Gates
from edgekd.validation.results import cases
from validation.nets import SAMPLES, samples, save
from validation.zoo import ZOO


@pytest.mark.parametrize("name", ZOO)
def test_a_file_fails_what_it_must_and_nothing_else(name: str, tmp_path: Path):
    entry = ZOO[name]
    (tmp_path / "model").mkdir()
    path = entry.build(tmp_path / "model")
    reference = save(entry.reference(), tmp_path / "reference.onnx")
    options = dict(entry.options)
    if options.get("data") == "samples":
        options["data"] = str(tmp_path / "data.npz")
        np.savez(tmp_path / "data.npz", x=samples(), labels=np.zeros(SAMPLES, np.int64))
    if "max_size_mb" in options:
        options["gates"] = Gates(max_size_mb=options.pop("max_size_mb"))
    found = validate([path], reference, **options)
    (model,) = found.content["models"]
    told = {check["id"]: check["message"] for check in model["checks"] if check["fails"]}
    assert set(told) == set(entry.fails), told
    assert found.exit_code == (1 if entry.fails else 0)
    assert all(check["remedy"] for check in model["checks"] if check["fails"])
    assert len({case.name for case in cases(found.content)}) == len(model["checks"])


def test_the_zoo_is_large():
    assert sum(bool(entry.fails) for entry in ZOO.values()) >= 40
    assert sum(not entry.fails for entry in ZOO.values()) >= 20
