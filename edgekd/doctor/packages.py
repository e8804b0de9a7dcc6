"""The versions that are installed, against those that edgekd asks for and those that it was tested with."""

from __future__ import annotations

import csv
import platform
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from edgekd import plan
from edgekd.doctor.finding import Finding, State
from edgekd.shipped import shipped
from edgekd.version import __version__

AREA = "packages"
GIVES = {
    "train": "training, distillation, pruning, quantization and export; the data set digits",
    "openvino": "measuring with OpenVINO, on Intel processors, GPUs and NPUs",
    "search": "edgekd search, trials of a recipe's own values",
    "postgresql": "edgekd search on several machines, with one database",
    "mlflow": "tracking: mlflow, runs beside others in MLflow",
    "tensorboard": "tracking: tensorboard, curves while a network is trained",
    "docs": "the documentation as a site",
    "dev": "edgekd's own tests and checks",
}
"""What each extra is for."""
_CODE = (".py", ".so")


@dataclass(frozen=True)
class Package:
    """A requirement, and what is installed of it.

    Args:
        version: None where it is not installed.
        damaged: how many files of its code are gone.
    """

    requirement: Requirement
    version: str | None
    damaged: int = 0

    @property
    def problem(self) -> str | None:
        """What is wrong with what is installed, or None."""
        if self.version is None:
            return None
        if not self.requirement.specifier.contains(self.version, prereleases=True):
            return f"{self.requirement.name} is {self.version}; {self.requirement.specifier} is needed"
        return f"{self.requirement.name} lacks {self.damaged} of its files" if self.damaged else None


def findings() -> Iterator[Finding]:
    """Yield what is to be said of Python, edgekd and the packages of its base and of each extra."""
    try:
        own = distribution("edgekd")
    except PackageNotFoundError:
        yield _python(SpecifierSet())
        told = f"{__version__} in {_here()}, which is not installed: what it needs is not known"
        yield Finding(AREA, "edgekd", "note", told, "the command edgekd", "pip install -e . in its folder")
        return
    yield _python(SpecifierSet(own.metadata["Requires-Python"] or ""))
    yield _edgekd(own)
    groups = {name: [_package(one) for one in asked] for name, asked in requirements(own).items()}
    yield _base(groups.pop(""))
    for name, packages in groups.items():
        yield _extra(name, packages)
    yield from _tested()
    if plan.installed("torch"):
        yield _training()


def requirements(own: Distribution) -> dict[str, list[Requirement]]:
    """Return what the base ("") and each extra ask for on this machine.

    What several extras name belongs to the smallest of them; an extra that has nothing of its own is left out.
    """
    asked = [Requirement(text) for text in own.requires or ()]
    extras = own.metadata.get_all("Provides-Extra") or []
    found = {"": [one for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]}
    known = {canonicalize_name(one.name) for one in found[""]}
    groups = {extra: [one for one in asked if one.marker and one.marker.evaluate({"extra": extra})] for extra in extras}
    for extra, group in sorted(groups.items(), key=lambda item: len(item[1])):
        mine = [one for one in group if canonicalize_name(one.name) not in known]
        known |= {canonicalize_name(one.name) for one in mine}
        if mine:
            found[extra] = mine
    return found


def _package(requirement: Requirement) -> Package:
    try:
        found = distribution(requirement.name)
    except PackageNotFoundError:
        return Package(requirement, None)
    # Not `found.files`: where the package importlib_metadata is imported, it leaves out what is missing.
    files = [Path(line[0]) for line in csv.reader((found.read_text("RECORD") or "").splitlines()) if line]
    code = [file for file in files if file.suffix in _CODE]
    return Package(requirement, found.version, sum(not Path(str(found.locate_file(file))).exists() for file in code))


def _python(asked: SpecifierSet) -> Finding:
    version = platform.python_version()
    told = f"{version} ({sys.executable})"
    if asked.contains(version, prereleases=True):
        return Finding(AREA, "python", "ok", told)
    mend = f"make an environment with a Python {asked}"
    return Finding(AREA, "python", "broken", f"{told}; edgekd needs {asked}", "edgekd", mend)


def _edgekd(own: Distribution) -> Finding:
    told = f"{__version__} in {_here()}"
    if own.version == __version__:
        return Finding(AREA, "edgekd", "ok", told)
    told += f"; what is installed calls itself {own.version}"
    return Finding(
        AREA, "edgekd", "note", told, "the right list of what it needs", "install it again: pip install -e ."
    )


def _here() -> Path:
    return Path(__file__).resolve().parents[2]


def _base(packages: list[Package]) -> Finding:
    wrong = [f"{one.requirement.name} is not installed" for one in packages if one.version is None]
    wrong += [one.problem for one in packages if one.problem]
    if wrong:
        mend = "pip install --force-reinstall edgekd, with -c constraints.txt where that is at hand"
        return Finding(AREA, "base", "broken", "; ".join(wrong), "edgekd", mend)
    return Finding(AREA, "base", "ok", _versions(packages))


def _extra(name: str, packages: list[Package]) -> Finding:
    gives, mend = GIVES.get(name), f"pip install 'edgekd[{name}]'"
    there = [one for one in packages if one.version is not None]
    absent = ", ".join(one.requirement.name for one in packages if one.version is None)
    wrong = [one.problem for one in there if one.problem]
    state: State = "broken" if wrong else "missing" if absent else "ok"
    told = "; ".join([*wrong, f"not installed: {absent}"] if absent else wrong)
    return Finding(AREA, name, state, told or _versions(packages), gives, None if state == "ok" else mend)


def _versions(packages: list[Package]) -> str:
    return ", ".join(f"{one.requirement.name} {one.version}" for one in packages)


def _tested() -> Iterator[Finding]:
    """Yield how the installed packages differ from the set that edgekd is tested with."""
    file = shipped("constraints.txt")
    differing = differences(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if differing:
        shown = ", ".join(f"{name} {has} (tested {tested})" for name, (has, tested) in differing.items())
        mend = f"pip install -c {file} with what was installed before"
        yield Finding(AREA, "tested set", "note", shown, "the versions that edgekd is tested with", mend)


def differences(constraints: str) -> Mapping[str, tuple[str, str]]:
    """Return the installed and the tested version of each package whose two differ.

    Args:
        constraints: lines of `name==version`.
    """
    found = {}
    for line in constraints.splitlines():
        name, equals, tested = line.partition("==")
        if not equals or line.startswith("#"):
            continue
        try:
            has = distribution(name).version
        except PackageNotFoundError:
            continue
        if Version(Version(has).public) != Version(Version(tested).public):
            found[name] = (has, tested)
    return found


def _training() -> Finding:
    kind = plan.computing("auto").kind
    if kind == "cpu" and plan.nvidia_driver():
        told, mend = "on the processor: this build of torch has no CUDA, and there is an NVIDIA driver", "install torch"
        return Finding(AREA, "training", "note", told, "training on the graphics card", f"{mend} with CUDA")
    return Finding(AREA, "training", "ok", f"on {'the processor' if kind == 'cpu' else 'a graphics card (CUDA)'}")
