"""Versions that are installed, against those that are asked for, in made-up site-packages."""

from __future__ import annotations

import importlib
import tomllib
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from tiny import ROOT

from edgekd.doctor import packages


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Return a function that installs a package of two modules, here and for importlib."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(name: str, version: str, *lines: str) -> Path:
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("\n".join([f"Name: {name}", f"Version: {version}", *lines]) + "\n\n")
        (folder / "RECORD").write_text(f"{name}/__init__.py,,\n{name}/more.py,,\n")
        (tmp_path / name).mkdir(exist_ok=True)
        for file in ("__init__.py", "more.py"):
            (tmp_path / name / file).write_text("")
        importlib.invalidate_caches()  # a folder that changes twice within a tick of the clock looks unchanged
        return tmp_path / name

    return install


ASKED = [
    "Requires-Python: >=3.11",
    *(f"Provides-Extra: {extra}" for extra in ("all", "speech", "sight")),
    "Requires-Dist: part_a>=2",
    'Requires-Dist: part_win; sys_platform == "win32"',
    *(f"Requires-Dist: {part}; extra == {extra!r}" for extra in ("all", "speech") for part in ("part_b<5", "part_c")),
    *(f"Requires-Dist: part_d>=1; extra == {extra!r}" for extra in ("all", "sight")),
]


def _states() -> dict[str, tuple[str, str]]:
    return {one.name: (one.state, one.told) for one in packages.findings() if one.name in ("base", "speech", "sight")}


def test_each_extra_has_its_own_packages_and_a_union_none(site):
    site("edgekd", "9", *ASKED)
    found = packages.requirements(distribution("edgekd"))
    assert {extra: [one.name for one in asked] for extra, asked in found.items()} == {
        "": ["part_a"], "sight": ["part_d"], "speech": ["part_b", "part_c"],
    }  # fmt: skip


def test_what_is_there_is_ok_what_is_absent_missing_and_what_does_not_fit_broken(site):
    site("edgekd", "9", *ASKED)
    site("part_a", "2.1")
    site("part_b", "5.0")
    assert _states() == {
        "base": ("ok", "part_a 2.1"),
        "speech": ("broken", "part_b is 5.0; <5 is needed; not installed: part_c"),
        "sight": ("missing", "not installed: part_d"),
    }


def test_the_base_must_be_there(site):
    site("edgekd", "9", *ASKED)
    assert _states()["base"] == ("broken", "part_a is not installed")


def test_a_package_whose_files_are_gone_is_broken(site):
    site("edgekd", "9", *ASKED)
    (site("part_a", "2.1") / "more.py").unlink()
    site("part_d", "1")
    assert _states() == {
        "base": ("broken", "part_a lacks 1 of its files"),
        "speech": ("missing", "not installed: part_b, part_c"),
        "sight": ("ok", "part_d 1"),
    }


def test_another_version_of_edgekd_or_of_python_is_told(site):
    site("edgekd", "9", "Requires-Python: >=4")
    found = {one.name: one for one in packages.findings()}
    assert found["python"].state == "broken"
    assert "edgekd needs >=4" in found["python"].told
    assert found["edgekd"].state == "note"
    assert "calls itself 9" in found["edgekd"].told


def test_differences_from_what_was_tested_are_told_but_a_build_is_none(site):
    site("part_a", "2.1")
    site("part_b", "2.0+cpu")
    site("part_c", "1.0")
    lines = "# part_a==9\npart_a==2.2\npart_b==2.0\npart_c==1.0.0\npart_absent==1\n"
    assert packages.differences(lines) == {"part_a": ("2.1", "2.2")}


def test_every_extra_says_what_it_gives():
    """A new extra needs a sentence in `GIVES`; "all" has nothing of its own."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(packages.GIVES) == set(project["optional-dependencies"]) - {"all"}


def test_what_is_asked_is_what_this_project_asks():
    own = Distribution.from_name("edgekd")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    train = {Requirement(one).name for one in project["optional-dependencies"]["train"]}
    assert {one.name for one in packages.requirements(own)["train"]} <= train
