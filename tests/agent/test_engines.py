"""Engines are kept, and taken again only where nothing has changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgekd.agent import root
from edgekd.agent.errors import AgentError
from edgekd.agent.files import sha256

from .fakes import loading
from .networks import linear, samples, undefined, weights

SHAPES = {"input": (2, 8)}
FEEDS = {"input": samples(2)}


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with loading.loaded("10.3", tmp_path, monkeypatch) as module:
        yield module


def prepare(backend: Any, path: Path, options: dict[str, Any] | None = None, shapes: Any = None) -> dict[str, Any]:
    return dict(backend.prepare(path, options or {}, shapes or SHAPES, lambda detail: None))


def kept(folder: Path) -> list[Path]:
    return sorted((folder / "engines").glob("*.plan"))


def test_the_second_time_it_is_there(backend: Any, tmp_path: Path) -> None:
    path = linear(tmp_path / "m.onnx")
    first, second = prepare(backend, path), prepare(backend, path)
    assert (first["cached"], second["cached"]) == (False, True)
    assert first["build_seconds"] == second["build_seconds"] > 0
    (plan,) = kept(tmp_path)
    assert plan.stat().st_size == first["plan_bytes"] == second["plan_bytes"]
    meta = json.loads(plan.with_suffix(".json").read_text())
    assert meta["plan_sha256"] == sha256(plan)
    assert meta["identity"]["onnx"] == sha256(path)
    assert backend.open(path, {}, SHAPES).facts(FEEDS)["cached"]


def test_whatever_decides_about_an_engine_is_in_its_name(
    backend: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = linear(tmp_path / "m.onnx")
    prepare(backend, path)
    changes: list[dict[str, Any]] = [
        {"options": {"precision": "fp16"}},
        {"options": {"workspace_mb": 64}},
        {"options": {"optimization_level": 1}},
        {"shapes": {"input": (3, 8)}},
    ]
    for number, change in enumerate(changes):
        assert not prepare(backend, path, **change)["cached"]
        assert prepare(backend, path, **change)["cached"]
        assert len(kept(tmp_path)) == number + 2
    for option in ({"threads": 3}, {"cuda_graph": True}):
        assert prepare(backend, path, option)["cached"]  # these change only how it is run
    monkeypatch.setenv("FAKE_CUDA_VERSION", "12090")
    assert not prepare(backend, path)["cached"]
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.4\n")
    monkeypatch.setattr(backend.engines, "ROOT", tmp_path)
    assert not prepare(backend, path)["cached"]
    assert backend.engines.platform()["l4t"] == "# R36 (release), REVISION: 4.4"


def test_another_model_and_another_gpu_have_their_own(
    backend: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(backend, linear(tmp_path / "m.onnx"))
    assert not prepare(backend, undefined(tmp_path / "m.onnx"))["cached"]
    cuda = type(backend.cudart.load())
    for name in ("device_name", "compute_capability"):
        monkeypatch.setattr(cuda, name, lambda self: "another")
        assert not prepare(backend, linear(tmp_path / "m.onnx"))["cached"]


def test_weights_that_lie_in_another_file_are_part_of_the_model(backend: Any, tmp_path: Path) -> None:
    path = linear(tmp_path / "m.onnx")
    onnx.save(onnx.load(path), str(path), save_as_external_data=True, location="m.bin", size_threshold=0)
    assert [prepare(backend, path)["cached"] for _ in range(2)] == [False, True]
    trained = weights() * 2
    before = sha256(path)
    (tmp_path / "m.bin").write_bytes(trained.tobytes())
    assert sha256(path) == before
    session = backend.open(path, {}, SHAPES)
    assert not session.facts(FEEDS)["cached"]
    np.testing.assert_allclose(session.run(FEEDS)["logits"], FEEDS["input"] @ trained, atol=1e-5)
    (tmp_path / "m.bin").unlink()
    with pytest.raises(AgentError, match=r"m\.onnx has weights in 'm\.bin', which is not beside it"):
        prepare(backend, path)


def test_another_release_builds_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = linear(tmp_path / "m.onnx")
    for version in ("10.3.0", "10.3.1"):
        with loading.loaded("10.3", tmp_path, monkeypatch, version) as backend:
            first = prepare(backend, path)
            assert (first["cached"], first["timing_cache_reused"]) == (False, False)
            assert prepare(backend, path, {"precision": "fp16"})["timing_cache_reused"]
    assert len(kept(tmp_path)) == 4


def _cut(plan: Path) -> None:
    plan.write_bytes(plan.read_bytes()[:-1])


def _flip(plan: Path) -> None:
    content = bytearray(plan.read_bytes())
    content[-5] ^= 1
    plan.write_bytes(bytes(content))


def _forget(plan: Path) -> None:
    plan.with_suffix(".json").unlink()


def _scribble(plan: Path) -> None:
    plan.with_suffix(".json").write_text("[]")


def _claim(plan: Path) -> None:
    meta = json.loads(plan.with_suffix(".json").read_text())
    meta["identity"]["onnx"] = "0" * 64
    plan.with_suffix(".json").write_text(json.dumps(meta))


@pytest.mark.parametrize("damage", [_cut, _flip, _forget, _scribble, _claim, Path.unlink])
def test_what_is_damaged_is_built_again_and_never_loaded(backend: Any, tmp_path: Path, damage: Any) -> None:
    path = linear(tmp_path / "m.onnx")
    prepare(backend, path)
    (plan,) = kept(tmp_path)
    damage(plan)
    session = backend.open(path, {}, SHAPES)
    assert not session.facts(FEEDS)["cached"]
    np.testing.assert_allclose(session.run(FEEDS)["logits"], FEEDS["input"] @ weights(), atol=1e-6)
    assert prepare(backend, path)["cached"]


def test_damaged_timings_are_not_used(backend: Any, tmp_path: Path) -> None:
    prepare(backend, linear(tmp_path / "m.onnx"))
    (timings,) = (tmp_path / "engines").glob("timings-*.cache")
    content = timings.read_bytes()
    for damaged in (content[:-1], b"", content + b"\nproduct"):
        timings.write_bytes(damaged)
        facts = prepare(backend, undefined(tmp_path / "u.onnx"), {"workspace_mb": len(damaged) + 1})
        assert not facts["timing_cache_reused"]
    facts = prepare(backend, undefined(tmp_path / "u.onnx"))
    assert facts["timing_cache_reused"]


def test_timings_of_two_builds_at_once_are_kept_together(backend: Any) -> None:
    ours, theirs = b"10.3.1\na", b"10.3.1\nb"
    merge = backend.building.merged_timings
    assert merge(ours, theirs) == b"10.3.1\na\nb"
    assert merge(ours, b"") == ours
    assert merge(ours, b"8.5.1\nb") == ours  # another release wrote them


def test_without_the_cache_nothing_is_kept(backend: Any, tmp_path: Path) -> None:
    path = linear(tmp_path / "m.onnx")
    assert prepare(backend, path, {"cache": False}) == {}
    for _ in range(2):
        assert not backend.open(path, {"cache": False}, SHAPES).facts(FEEDS)["cached"]
    assert not (tmp_path / "engines").exists()


def test_the_engines_used_last_stay(backend: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend.engines, "_MOST_ENGINES", 3)
    path = linear(tmp_path / "m.onnx")
    plans = []
    for level in (1, 2, 3):
        prepare(backend, path, {"optimization_level": level})
        plans += [plan for plan in kept(tmp_path) if plan not in plans]
    for age, plan in enumerate(reversed(plans)):
        backend.engines.os.utime(plan, (10**9 - age, 10**9 - age))
    assert prepare(backend, path, {"optimization_level": 1})["cached"]  # now the first is the one used last
    prepare(backend, path, {"optimization_level": 4})
    assert plans[1] not in kept(tmp_path)
    assert {plans[0], plans[2]} < set(kept(tmp_path))
    assert len(list((tmp_path / "engines").glob("*.json"))) == len(kept(tmp_path)) == 3
    monkeypatch.setattr(backend.engines, "_MOST_BYTES", 1)
    prepare(backend, path, {"optimization_level": 5})
    assert len(kept(tmp_path)) == 1  # the newest stays, however large


def test_a_folder_that_others_can_write_to_is_refused(backend: Any, tmp_path: Path) -> None:
    (tmp_path / "engines").mkdir(mode=0o700)
    (tmp_path / "engines").chmod(0o777)
    with pytest.raises(AgentError, match=r"others can write to .*engines, .*chmod 700 it"):
        prepare(backend, linear(tmp_path / "m.onnx"))


def test_a_folder_that_cannot_be_made_is_told(backend: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEKD_ENGINE_CACHE", str(tmp_path / "file/engines"))
    with pytest.raises(AgentError, match=r"cannot be kept in .*file/engines \(Not a directory\); EDGEKD_ENGINE_CACHE"):
        prepare(backend, linear(tmp_path / "m.onnx"))


def test_the_folder_is_the_users_cache(backend: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEKD_ENGINE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert backend.engines.folder() == tmp_path / "cache/edgekd/engines"
    assert backend.engines.folder().stat().st_mode & 0o777 == 0o700
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert backend.engines.folder() == tmp_path / "home/.cache/edgekd/engines"


def test_a_full_disk_is_told(backend: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backend.engines, "replacing", full)
    with pytest.raises(AgentError, match=r"\(No space left on device\); EDGEKD_ENGINE_CACHE may name a folder with"):
        prepare(backend, linear(tmp_path / "m.onnx"))


def test_l4t_is_read_below_the_agents_root(backend: Any) -> None:
    assert backend.engines.ROOT == root.ROOT
