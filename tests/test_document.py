import contextlib
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BeforeValidator, Field, PositiveInt, ValidationError, field_validator, model_validator

from edgekd.document import DocumentError, Frozen, check_dict, load, parse, suggest
from edgekd.errors import UsageError


class Student(Frozen):
    model: str = "resnet"
    width: PositiveInt = 16
    widths: tuple[int, ...] = ()
    weights: Path | None = None
    rate: float = 0.1
    augment: bool = False

    @field_validator("width")
    @classmethod
    def even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("must be even, so that halves stay whole")
        return value


class Distill(Frozen):
    temperature: float = Field(4.0, gt=0)
    alpha: float = Field(0.9, ge=0, le=1)
    mode: Literal["forward", "reverse"] = "forward"


def _shorthand(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class Source(Frozen):
    name: Literal["digits", "mnist"]
    validation: float | PositiveInt | None = None


class Recipe(Frozen):
    version: Literal[1]
    student: Student = Student()
    teacher: str | Student = "big"
    distill: Distill | Literal[False] | None = Distill()
    data: Annotated[Source, BeforeValidator(_shorthand)] = Source(name="digits")
    epochs: Literal["auto"] | PositiveInt = 1
    stages: tuple[Distill, ...] = ()
    named: dict[str, Distill] = Field(default_factory=dict)

    @model_validator(mode="after")
    def agree(self) -> "Recipe":
        if self.epochs == 13:
            raise ValueError("13 epochs with this student make no sense")
        return self


def problems(text: str, *overrides: str) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        parse(text, "r.yaml", Recipe, overrides)
    return [str(problem) for problem in caught.value.problems]


def test_a_valid_document_becomes_a_frozen_model() -> None:
    recipe = parse("version: 1\nstudent: {widths: [8, 16], weights: a/b.safetensors, rate: 1e-3}\n", "r.yaml", Recipe)
    assert recipe.student == Student(widths=(8, 16), weights=Path("a/b.safetensors"), rate=0.001)
    with pytest.raises(ValidationError, match="frozen"):
        recipe.version = 1


def test_all_problems_are_told_at_once_with_line_key_and_remedy() -> None:
    text = """\
# a manual
version: 1
student:
  widht: 8
  rate: fast
distill:
  temperature: -1
  mode: foward
epoch: 3
"""
    assert problems(text) == [
        'r.yaml:4: student.widht: unknown key; did you mean "width"? '
        "(known: augment, model, rate, weights, width, widths)",
        'r.yaml:5: student.rate: "fast" is not allowed: must be a number',
        "r.yaml:7: distill.temperature: -1 is not allowed: must be greater than 0",
        'r.yaml:8: distill.mode: "foward" is not allowed: must be "forward" or "reverse"; did you mean "forward"?',
        'r.yaml:9: epoch: unknown key; did you mean "epochs"? '
        "(known: data, distill, epochs, named, stages, student, teacher, version)",
    ]


def test_the_error_is_a_usage_error_that_fits_one_screen() -> None:
    text = "version: 1\n" + "".join(f"key{i}: 1\n" for i in range(30))
    with pytest.raises(UsageError) as caught:
        parse(text, "r.yaml", Recipe)
    lines = str(caught.value).splitlines()
    assert lines[0] == "30 problems in r.yaml:"
    assert lines[1].startswith("  r.yaml:2: key0: unknown key")
    assert lines[-1] == "  ... and 10 more"
    assert len(lines) == 22
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("student: {rate: '1e-3'}", 'student.rate: "1e-3" is not allowed: must be a number'),
        ("student: {rate: true}", "student.rate: true is not allowed: must be a number"),
        ("student: {width: 2.0}", "student.width: 2.0 is not allowed: must be a whole number"),
        ("student: {width:}", "student.width: null is not allowed: must be a whole number"),
        ("student: {width: 7}", "student.width: 7 is not allowed: must be even, so that halves stay whole"),
        ("student: {augment: on}", 'student.augment: "on" is not allowed: must be true or false'),
        ("student: {augment: 1}", "student.augment: 1 is not allowed: must be true or false"),
        ("student: {model: 3}", "student.model: 3 is not allowed: must be text"),
        ("student: {widths: 3}", "student.widths: 3 is not allowed: must be a list"),
        ("student: {widths: [8, x]}", 'student.widths.1: "x" is not allowed: must be a whole number'),
        ("student: small", 'student: "small" is not allowed: must be a mapping'),
        ("distill: {alpha: 1.5}", "distill.alpha: 1.5 is not allowed: must be at most 1"),
        ("distill: 3", "distill: 3 is not allowed: must be a mapping or false"),
        ("teacher: [a]", 'teacher: ["a"] is not allowed: must be text or a mapping'),
        ("teacher: {width: -2}", "teacher.width: -2 is not allowed: must be greater than 0"),
        ("epochs: -1", 'epochs: -1 is not allowed: must be "auto" or greater than 0'),
        ("epochs: atuo", 'epochs: "atuo" is not allowed: must be "auto" or a whole number; did you mean "auto"?'),
        ("epochs: {a: 1}", 'epochs: a mapping is not allowed: must be "auto" or a whole number'),
        ("data: mnits", 'data: "mnits" is not allowed: must be "digits" or "mnist"; did you mean "mnist"?'),
        ("data: {validation: 0.1}", "data.name: required, but missing"),
        (
            "data: {name: mnist, validation: x}",
            'data.validation: "x" is not allowed: must be a number or a whole number',
        ),
        (
            "stages: [{}, {alpa: 1}]",
            'stages.1.alpa: unknown key; did you mean "alpha"? (known: alpha, mode, temperature)',
        ),
        ("named: {a: {alpa: 1}}", 'named.a.alpa: unknown key; did you mean "alpha"? (known: alpha, mode, temperature)'),
        ("distill: {alpa: 1}", 'distill.alpa: unknown key; did you mean "alpha"? (known: alpha, mode, temperature)'),
    ],
)
def test_each_kind_of_wrong_value_gives_one_message(line: str, message: str) -> None:
    assert problems(f"version: 1\n{line}\n") == [f"r.yaml:2: {message}"]


def test_a_validator_of_the_whole_model_speaks_for_itself() -> None:
    assert problems("# head\nversion: 1\nepochs: 13\n") == ["r.yaml:2: 13 epochs with this student make no sense"]


def test_a_missing_key_is_located_at_its_parent() -> None:
    assert problems("# head\nepochs: 2\n") == ["r.yaml:2: version: required, but missing"]
    assert problems("version: 1\ndata:\n  validation: 1\n") == ["r.yaml:2: data.name: required, but missing"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "r.yaml: the file is empty; it must be a mapping (`key: value` pairs)"),
        ("# only a comment\n", "r.yaml: the file is empty; it must be a mapping (`key: value` pairs)"),
        ("\n- a\n", "r.yaml:2: the document is a list; it must be a mapping (`key: value` pairs)"),
        ("digits", "r.yaml:1: the document is a single value; it must be a mapping (`key: value` pairs)"),
        ("version: 1\nversion: 1\n", "r.yaml:2: version: duplicate key, first given in line 1"),
        ("version: 1\nteacher: &a {model: *a}\n", "r.yaml:2: teacher.model: an alias includes itself"),
        (
            "version: 1\nteacher: !!python/name:os.system x\n",
            'r.yaml:2: teacher: !!python/name:os.system "x" is not a plain value',
        ),
        ("version: 1\nteacher: !mine {a: 1}\n", "r.yaml:2: teacher: the tag !mine is not known"),
        ("version: 1\n? [a]\n: 2\n", "r.yaml:2: a key must be plain text"),
        ("version: 1\n<<: 3\n", "r.yaml:2: `<<` takes a mapping or a list of mappings"),
    ],
)
def test_what_is_no_document_is_refused_with_its_line(text: str, message: str) -> None:
    assert problems(text) == [message]


def test_syntax_errors_have_a_line_and_tabs_a_remedy() -> None:
    (tab,) = problems("version: 1\nstudent:\n\twidth: 8\n")
    assert tab.startswith("r.yaml:3: cannot be read as YAML: ")
    assert tab.endswith("(indent with spaces, not with tabs)")
    (bracket,) = problems("version: 1\nstudent: {width: 8\nepochs: 1\n")
    assert bracket.startswith("r.yaml:3: cannot be read as YAML: ")
    (second,) = problems("version: 1\n---\nversion: 1\n")
    assert second.startswith("r.yaml:2: cannot be read as YAML: expected a single document")
    assert problems("version: 1\nteacher: \x07\n") == [
        r"r.yaml:2: cannot be read as YAML: the character U+0007 is not allowed"
    ]
    (deep,) = problems("version: " + "[" * 5000)
    assert deep == "r.yaml: cannot be read as YAML: nested too deeply"


def test_aliases_that_expand_without_end_are_stopped() -> None:
    lines = ["version: 1", "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    assert any("the document is too large: 10000 values" in problem for problem in problems("\n".join(lines)))


@pytest.mark.parametrize("levels", [60, 200, 400])
def test_what_is_nested_without_end_is_refused(levels: int) -> None:
    for opened, closed in (("[", "]"), ("{a: ", "}"), ("{<<: ", "}")):
        nested = f"version: 1\nteacher: {opened * levels}{'{a: 1}' if '<' in opened else 1}{closed * levels}"
        assert any("nested too deeply" in problem for problem in problems(nested))


def test_a_document_of_ten_thousand_mistakes_is_explained_in_part() -> None:
    """Each mistake looks for what was meant, so that all of them would take minutes."""
    assert len(problems("version: 1\n" + "".join(f"studnt{i}: 1\n" for i in range(9_000)))) <= 201


def test_a_file_that_nobody_wrote_by_hand_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "large.yaml").write_text("version: 1\n" + "# x\n" * 100_000)
    with pytest.raises(DocumentError, match=r"large.yaml: is larger than 256 KiB"):
        load(tmp_path / "large.yaml", Recipe)


def test_scalars_are_those_of_yaml_1_2() -> None:
    class Anything(Frozen):
        values: tuple[Any, ...]

    text = (
        "values: [1e-3, -2.5E+3, .5, 1., 0x1F, 0o17, 017, on, yes, True, ~, 2026-01-02, 1:30, .inf, -.inf, .nan, '1']"
    )
    *values, nan, quoted = parse(text, "r.yaml", Anything).values
    assert values == [
        0.001, -2500.0, 0.5, 1.0, 31, 15, 17, "on", "yes", True, None, "2026-01-02", "1:30", math.inf, -math.inf
    ]  # fmt: skip
    assert math.isnan(nan)
    assert quoted == "1"


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**30), 10**30) | st.booleans())
def test_what_python_prints_is_read_back_exactly(value: float) -> None:
    class One(Frozen):
        value: Any

    read = parse(f"value: {str(value).lower()}", "r.yaml", One).value
    assert read == value
    assert type(read) is type(value)


def test_anchors_and_merge_keys_work_and_own_keys_win() -> None:
    text = "version: 1\nnamed:\n  a: &a {alpha: 0.5, temperature: 2}\n  b: {<<: *a, alpha: 0.25}\n  c: *a\n"
    named = parse(text, "r.yaml", Recipe).named
    assert named["b"] == Distill(alpha=0.25, temperature=2)
    assert named["c"] == named["a"] == Distill(alpha=0.5, temperature=2)


def test_overrides_win_over_the_file() -> None:
    text = "version: 1\nstudent: {width: 8, model: mlp}\ndistill: null\nstages: [{alpha: 0}, {alpha: 0}]\n"
    recipe = parse(
        text,
        "r.yaml",
        Recipe,
        ["student.width=4", "student.widths=[8, 16]", "distill.alpha=1e-1", "stages.1.alpha=1", "teacher=a.b:c"],
    )
    assert recipe.student == Student(width=4, model="mlp", widths=(8, 16))
    assert recipe.distill == Distill(alpha=0.1)
    assert [stage.alpha for stage in recipe.stages] == [0, 1]
    assert recipe.teacher == "a.b:c"
    assert parse(text, "r.yaml", Recipe, ["distill.alpha=0.5", "distill=false"]).distill is False
    assert parse(text, "r.yaml", Recipe, ["data={name: mnist, validation: 10}"]).data == Source(
        name="mnist", validation=10
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "student.widht=8",
            'student.widht: unknown key; did you mean "width"? (known: augment, model, rate, weights, width, widths)',
        ),
        ("student.width=x", 'student.width: "x" is not allowed: must be a whole number'),
        ("teacher.width=8", 'teacher.width: `teacher` is "big", which has no key "width"; set `teacher` as a whole'),
        ("stages.4.alpha=1", 'stages.4: `stages` is [], which has no key "4"; set `stages` as a whole'),
        ("data={validation: 2}", "data.name: required, but missing"),
        ("student.width", "must be KEY=VALUE or KEY.KEY=VALUE (the value `null` switches a part off)"),
        ("student.width=", "must be KEY=VALUE or KEY.KEY=VALUE (the value `null` switches a part off)"),
        (".width=1", "must be KEY=VALUE or KEY.KEY=VALUE (the value `null` switches a part off)"),
        (
            "student.width=@a",
            "cannot be read as YAML: while scanning for the next token, "
            "found character '@' that cannot start any token",
        ),
    ],
)
def test_a_problem_of_an_override_names_the_override(override: str, message: str) -> None:
    assert problems("version: 1\nteacher: big\nstages: []\ndata: {name: mnist}\n", override) == [
        f"--set {override}: {message}"
    ]


def test_file_and_override_problems_come_together() -> None:
    assert problems("version: 2\n", "epochs=0", "nothing") == [
        "r.yaml:1: version: 2 is not allowed: must be 1",
        "--set nothing: must be KEY=VALUE or KEY.KEY=VALUE (the value `null` switches a part off)",
        '--set epochs=0: epochs: 0 is not allowed: must be "auto" or greater than 0',
    ]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"absent.yaml: cannot be read: No such file or directory"):
        load(tmp_path / "absent.yaml", Recipe)
    with pytest.raises(DocumentError, match=r"cannot be read: Is a directory"):
        load(tmp_path, Recipe)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"version: \xff\xfe")
    with pytest.raises(DocumentError, match=r"binary.yaml: is not UTF-8 text"):
        load(binary, Recipe)
    marked = tmp_path / "marked.yaml"
    marked.write_bytes(b"\xef\xbb\xbfversion: 1\n")
    assert load(marked, Recipe).version == 1


def test_defaults_fill_only_what_is_not_given(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("version: 1\n")
    assert load(path, Recipe, defaults={"teacher": "mine"}).teacher == "mine"
    assert load(path, Recipe, ["teacher=other"], defaults={"teacher": "mine"}).teacher == "other"


def test_mappings_from_python_get_the_same_messages_without_lines() -> None:
    assert check_dict({"version": 1, "student": {"widths": (8, 16)}}, Recipe, "Recipe").student.widths == (8, 16)
    with pytest.raises(DocumentError) as caught:
        check_dict({"version": 1, "distill": {"alpha": object}}, Recipe, "Recipe")
    (problem,) = caught.value.problems
    assert str(problem) == """Recipe: distill.alpha: "<class 'object'>" is not allowed: must be a number"""


def test_suggestions_ignore_case_and_dashes() -> None:
    assert suggest("Fashion_MNIST", ["mnist", "fashion-mnist"]) == '; did you mean "fashion-mnist"?'
    assert suggest("zzz", ["mnist"]) == ""


@given(st.text(max_size=80))
def test_no_text_makes_it_fall_over(text: str) -> None:
    with contextlib.suppress(DocumentError):
        parse(text, "r.yaml", Recipe)
