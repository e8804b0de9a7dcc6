"""The store, the data and the programs, as they are found."""

from __future__ import annotations

from collections import namedtuple

from edgekd import artifact
from edgekd import data as datasets
from edgekd.doctor import places


def _states(root):
    return {one.name: one for one in places.store(root)}


def test_a_store_that_is_not_there_is_not_made(tmp_path):
    found = _states(tmp_path / "a" / "store")["place"]
    assert found.state == "ok"
    assert "the first run will make" in found.told
    assert list(tmp_path.iterdir()) == []


def test_a_good_store(store):
    found = _states(store)
    assert set(found) == {"place"}
    assert f"{len(list((store / 'artifacts').iterdir()))} artifacts" in found["place"].told


def test_what_is_corrupted_or_set_aside_is_told_without_reading_every_file(store):
    pruned, teacher = (next((store / "artifacts").glob(f"{name}-*")) for name in ("prune", "teacher"))
    (pruned / "model.json").unlink()
    (teacher / "model.json").write_text("{}")  # only its checksum would tell
    (store / "set-aside" / "distill-0-1").mkdir(parents=True)
    found = _states(store)
    assert (found["artifacts"].state, found["artifacts"].told) == ("broken", f"1 corrupted: {pruned.name}")
    assert artifact.check(teacher) is not None
    assert found["set aside"].state == "note"


def test_a_place_that_cannot_be_written_or_is_full_is_broken(store, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    assert _states(tmp_path / "file" / "store")["place"].state == "broken"
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**9, 10**9, 10**6))
    full = _states(store)["place"]
    assert full.state == "broken"
    assert "cache gc" in full.mend


def test_data_sets_are_described_as_a_run_would(tmp_path, monkeypatch):
    monkeypatch.delenv("EDGEKD_DATA", raising=False)
    monkeypatch.setattr("edgekd.data.digits.find_spec", lambda name: None)
    found = {one.name: one for one in places._data(tmp_path / "none")}
    assert found["folder"].state == "note"
    assert found["digits"].state == "missing"
    assert "pip install 'edgekd[train]'" in found["digits"].told
    assert found["mnist"].told == datasets.describe("mnist", tmp_path / "none")
    assert {name for name in found if name != "folder"} == set(datasets.shipped_data())


def test_the_ssh_client(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None if name == "sftp" else f"/usr/bin/{name}")
    (found,) = places.programs()
    assert (found.state, found.told) == ("missing", "there is no sftp")
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    (found,) = places.programs()
    assert (found.state, found.told) == ("ok", "/usr/bin/ssh, /usr/bin/sftp")
