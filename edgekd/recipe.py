"""Recipes: what to train, how to compress it, and what must hold in the end."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, StringConstraints, create_model, model_validator

from edgekd.document import Frozen, check_dict, load, suggest
from edgekd.errors import UsageError
from edgekd.options import Data, DataOptions, Gates, Name, Network, NonNegativeInt, Teacher, Tracking
from edgekd.plugin import look_in
from edgekd.shipped import shipped
from edgekd.space import Search
from edgekd.stages import declared

DEFAULT = "digits"

AUTO = "auto"
TeacherName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$")]


def _switch(value: Any) -> Any:
    """`prune: false` switches a stage off, `prune: true` keeps its defaults."""
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


def _stage_fields() -> dict[str, Any]:
    """Return a field for every stage file that may be switched off or left to its defaults."""
    return {
        _attribute(name): (
            Annotated[found.options | None, BeforeValidator(_switch)],
            Field(default_factory=found.options if found.stage.default else lambda: None, alias=name),
        )
        for name, found in declared().items()
        if name != "teacher"
    }


def _attribute(name: str) -> str:
    """Return the field's name of a YAML key: `validate` is taken by pydantic."""
    return f"{name}_" if hasattr(BaseModel, name) else name


if TYPE_CHECKING:

    class _Stages(Frozen):
        """The stages' blocks, which only exist at run time."""
else:
    _Stages = create_model("_Stages", __base__=Frozen, **_stage_fields())


class Recipe(_Stages):
    """A recipe. Besides the fields below it has one for each file of `edgekd/stages`, named as the file.

    Raises:
        UsageError: by `Recipe.load` and `Recipe.of`, with all problems at once.
    """

    version: Literal[1]
    name: str = "recipe"
    """Default: the file's name."""
    data: DataOptions
    task: Name = "classification"
    """A shipped task or "package.module:function"."""
    seed: NonNegativeInt = 0
    compute: Literal["auto", "cpu", "cuda"] = "auto"
    """Where networks are trained; "auto" is CUDA where there is a device."""
    teacher: Teacher | Literal["auto"] | None = None
    """One teacher; or "auto": the one of `teachers` that the student learns best from."""
    teachers: Mapping[TeacherName, Teacher] = Field(default_factory=dict)
    """Several teachers by name; without `teacher: auto` the student learns from all of them (`distill.fusion`), and the
    first one is what the report compares with."""
    assistants: tuple[Network, ...] = ()
    """Teacher assistants (Mirzadeh et al. 2019, arXiv:1902.03393): the first learns from the teacher, each further one
    from the one before, the student from the last."""
    student: Network | None = None
    """Needed unless `distill: false`, which compresses the teacher itself."""
    gates: Gates = Gates()
    search: Search | None = None
    """What `edgekd search` tries."""
    tracking: Tracking = ()
    """Where a run is followed besides its report; nothing that is made depends on it."""

    @model_validator(mode="before")
    @classmethod
    def _budget_prunes(cls, values: Any) -> Any:
        """A budget says what is cut: without a word on pruning there is no pruned student beside its networks."""
        if isinstance(values, dict) and values.get("budget") and "prune" not in values:
            return {**values, "prune": False}
        return values

    @model_validator(mode="after")
    def _whole(self) -> Recipe:
        if self.options("export") is None or self.options("measure") is None:
            raise ValueError("export and measure cannot be switched off: nothing would be judged")
        if self.teacher is None and not self.teachers:
            raise ValueError("teacher is missing: one network, or several by name in teachers")
        if isinstance(self.teacher, Teacher) and self.teachers:
            raise ValueError(
                "teacher and teachers: name one teacher, or several, or teacher: auto to choose of several"
            )
        if self.teacher == AUTO and len(self.teachers) < 2:
            raise ValueError("teacher: auto chooses among several: name at least two in teachers")
        self._check_distillation()
        self._check_budget()
        return self

    def _check_budget(self) -> None:
        if self.options("budget") is None:
            return
        if self.options("distill") is None:
            raise ValueError("budget looks for a smaller student: it needs one (remove distill: false)")
        if self.gates != Gates():
            raise ValueError(
                "gates and budget: the points of a budget have limits of their own; move those of gates there"
            )
        if self.options("factorize") is not None:
            raise ValueError("factorize and budget: the search is for widths and blocks; switch one of them off")

    def _check_distillation(self) -> None:
        distillation = self.options("distill")
        if distillation is None:
            needless = [name for name in ("assistants", "baseline") if getattr(self, name)]
            if needless or len(self.teachers) > 0:
                raise ValueError(
                    f"distill: false compresses one teacher; remove {needless[0] if needless else 'teachers'}"
                )
        elif self.student is None:
            raise ValueError("student is missing: distillation needs one (or distill: false)")
        shares = getattr(distillation, "shares", None)
        if shares is not None and set(shares) != set(self.teachers):
            raise ValueError(f"distill.shares: one part for each of {', '.join(self.teachers) or 'several teachers'}")

    def networks(self) -> dict[str, Network]:
        """Return every network by its role: teachers, assistants, the student."""
        one = {"teacher": self.teacher} if isinstance(self.teacher, Teacher) else {}
        several = {f"teacher-{name}": network for name, network in self.teachers.items()}
        helping = {f"assistant-{index}": network for index, network in enumerate(self.assistants, 1)}
        return {**one, **several, **helping, **({"student": self.student} if self.student else {})}

    def options(self, block: str) -> BaseModel | None:
        """Return a block's options by its YAML key, or None where it is switched off."""
        found = getattr(self, _attribute(block))
        return found if isinstance(found, BaseModel) else None

    def resolved(self) -> dict[str, Any]:
        """Return every key with its value, as YAML and JSON would have it."""
        return self.model_dump(mode="json", by_alias=True)

    @classmethod
    def load(cls, name: str = DEFAULT, overrides: Sequence[str] = ()) -> Recipe:
        """Read a recipe.

        Args:
            name: a shipped recipe's name, or the path of a YAML file, in whose folder "package.module:function" is
                found too.
            overrides: "key.path=value" each, checked as the file is.
        """
        path = find(name)
        if name not in shipped_recipes():
            look_in(path.parent)
        return load(path, cls, overrides, defaults={"name": path.stem})

    @classmethod
    def of(cls, **content: Any) -> Recipe:
        """Return a recipe from keyword arguments, with the checks and messages of a file."""
        return check_dict({"version": 1, **content}, cls, "Recipe.of")


def shipped_recipes() -> dict[str, Path]:
    """Return the shipped recipes by name."""
    return {path.stem: path for path in sorted(shipped("pipelines").glob("*.yaml"))}


def find(name: str) -> Path:
    """Return the file of a recipe: a path wins over a shipped name.

    Raises:
        UsageError: there is no such recipe.
    """
    path, known = Path(name), shipped_recipes()
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UsageError(f"no recipe {name}: there is no such file (shipped recipes: {', '.join(known)})")
        return path
    if name not in known:
        raise UsageError(
            f"no recipe {name!r}{suggest(name, known)} (shipped: {', '.join(known)}; or the path of a .yaml file)"
        )
    return known[name]


def manual(path: Path) -> str:
    """Return a recipe's head comment, which is its manual."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").removeprefix(" "))
    return "\n".join(lines)


def copy(name: str, target: Path) -> Path:
    """Copy a recipe to a file or into a folder.

    Raises:
        UsageError: the target is there already, or its folder is not.
    """
    source = find(name)
    destination = target / source.name if target.is_dir() else target
    if destination.exists():
        raise UsageError(f"{destination} is there already; name another file, or remove it first")
    if not destination.parent.is_dir():
        raise UsageError(f"{destination.parent} is no folder; make it first")
    shutil.copyfile(source, destination)
    return destination


__all__ = ["DEFAULT", "Data", "Gates", "Network", "Recipe", "copy", "find", "manual", "shipped_recipes"]
