"""The store keeps what it is given, notices what was changed, and never shows half a result."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd import artifact
from edgekd.agent.sealing import digest_of
from edgekd.errors import StageError, UsageError

PARTS = {"stage": "teacher", "options": {"width": 8}}


def _write(text: str):
    def work(out: Path) -> dict:
        (out / "sub").mkdir()
        (out / "sub" / "weights").write_text(text)
        return {"validation": 0.5}

    return work


def _store(path: Path) -> tuple[artifact.Store, list[str]]:
    said: list[str] = []
    return artifact.open_store(path / "store", said.append), said


def test_a_second_build_finds_the_first(tmp_path):
    store, _ = _store(tmp_path)
    made, cached = artifact.build(store, "teacher", PARTS, _write("a"))
    assert not cached
    again, cached = artifact.build(store, "teacher", PARTS, lambda out: pytest.fail("worked again"))
    assert cached
    assert again == made
    assert (again.path / "sub" / "weights").read_text() == "a"
    assert again.facts == {"validation": 0.5}


def test_the_digest_is_of_names_and_contents_only(tmp_path):
    store, _ = _store(tmp_path)
    one, _ = artifact.build(store, "teacher", PARTS, _write("a"))
    two, _ = artifact.build(store, "teacher", {**PARTS, "seed": 1}, _write("a"))
    other, _ = artifact.build(store, "teacher", {**PARTS, "seed": 2}, _write("b"))
    files = {"sub/weights": hashlib.sha256(b"a").hexdigest()}
    assert one.digest == two.digest == hashlib.sha256(json.dumps(files, separators=(",", ":")).encode()).hexdigest()
    assert one.key != two.key
    assert other.digest != one.digest


@pytest.mark.parametrize("file", ["sub/weights", "manifest.json"])
def test_any_flipped_bit_is_noticed_and_the_artifact_is_made_again(tmp_path, file):
    store, said = _store(tmp_path)
    made, _ = artifact.build(store, "teacher", PARTS, _write("content"))
    path = made.path / file
    data = bytearray(path.read_bytes())
    for position in range(0, len(data), 7):
        changed = bytearray(data)
        changed[position] ^= 1
        path.write_bytes(changed)
        assert artifact.check(made.path) is not None, f"bit 0 of byte {position} of {file}"
    path.write_bytes(changed)
    _, cached = artifact.build(store, "teacher", PARTS, _write("content"))
    assert not cached
    assert "corrupted artifact" in said[0]
    assert len(list((store.root / "set-aside").iterdir())) == 1
    assert artifact.check(made.path) is None


def test_a_missing_or_added_file_is_noticed(tmp_path):
    store, _ = _store(tmp_path)
    made, _ = artifact.build(store, "teacher", PARTS, _write("a"))
    (made.path / "extra").write_text("")
    assert "extra" in artifact.check(made.path)
    (made.path / "extra").unlink()
    (made.path / "sub" / "weights").unlink()
    assert "sub/weights" in artifact.check(made.path)


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, '{"seal": 1}', '{"seal": 1, "files": NaN}', '{"files": 3}'])
def test_a_manifest_that_is_none_is_a_damaged_artifact(tmp_path, text):
    store, said = _store(tmp_path)
    made, _ = artifact.build(store, "teacher", PARTS, _write("a"))
    content = {"files": 3} if text == '{"files": 3}' else None
    text = json.dumps({**content, "seal": digest_of(content)}) if content else text
    (made.path / "manifest.json").write_text(text)
    again, cached = artifact.build(store, "teacher", PARTS, _write("a"))
    assert not cached
    assert again.digest == made.digest
    assert "corrupted artifact" in said[0]


def test_failed_work_leaves_no_artifact_and_a_checkpoint_survives(tmp_path):
    store, _ = _store(tmp_path)

    def interrupted(out: Path) -> dict:
        (out / "half").write_text("")
        (out / artifact.CHECKPOINT).mkdir(exist_ok=True)
        (out / artifact.CHECKPOINT / "state").write_text("epoch 3")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        artifact.build(store, "teacher", PARTS, interrupted)
    assert artifact.find(store, "teacher", digest_of(PARTS)) is None

    def resumed(out: Path) -> dict:
        assert not (out / "half").exists()
        return {"state": (out / artifact.CHECKPOINT / "state").read_text()}

    made, _ = artifact.build(store, "teacher", PARTS, resumed)
    assert made.facts == {"state": "epoch 3"}
    assert not (made.path / artifact.CHECKPOINT).exists()


def test_work_that_is_given_up_leaves_nothing(tmp_path):
    store, _ = _store(tmp_path)

    def work(out: Path) -> dict:
        (out / artifact.CHECKPOINT).mkdir()
        (out / "weights").write_text("half")
        raise artifact.Abandoned("worse than the others")

    with pytest.raises(artifact.Abandoned, match="worse than the others"):
        artifact.build(store, "teacher", PARTS, work)
    assert not list((store.root / "partial").iterdir())
    assert not list((store.root / "artifacts").iterdir())


def test_a_full_disk_is_told_in_one_sentence(tmp_path):
    store, _ = _store(tmp_path)

    def full(out: Path) -> dict:
        raise OSError(28, os.strerror(28))

    with pytest.raises(StageError, match=r"no space left in the store .*edgekd cache gc"):
        artifact.build(store, "teacher", PARTS, full)


def test_a_store_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "store").write_text("")
    with pytest.raises(UsageError, match="EDGEKD_HOME"):
        artifact.open_store(tmp_path / "store")


def _build_slowly(root: Path, log: Path) -> None:
    store = artifact.open_store(root, lambda text: None)

    def work(out: Path) -> dict:
        with log.open("a") as stream:
            stream.write("worked\n")
        (out / "file").write_text("x" * 100_000)
        return {}

    for seed in range(5):
        artifact.build(store, "teacher", {"seed": seed}, work)


def test_processes_that_share_a_store_work_once_per_key(tmp_path):
    context = multiprocessing.get_context("spawn")
    log = tmp_path / "log"
    processes = [context.Process(target=_build_slowly, args=(tmp_path / "store", log)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert log.read_text().count("worked") == 5


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(_JSON)
def test_a_value_has_one_digest_whatever_the_order_of_its_keys(value):
    def reversed_keys(item):
        if isinstance(item, dict):
            return {key: reversed_keys(item[key]) for key in reversed(item)}
        return [reversed_keys(one) for one in item] if isinstance(item, list) else item

    assert digest_of(value) == digest_of(reversed_keys(value))


@given(_JSON, _JSON)
def test_different_values_have_different_digests(one, other):
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (digest_of(one) == digest_of(other)) == same
