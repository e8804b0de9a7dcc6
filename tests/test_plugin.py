import functools
import subprocess
import sys
from pathlib import Path

import pytest

from edgekd.errors import StageError, UsageError
from edgekd.plugin import Parameter, call, check_arguments, load, locate, look_in, nameof

NETS = """
import torch_is_not_imported_by_locate
from os.path import join as joined
import decorators

SCALE = 2

def small(width, depth=3, *, bias: bool = True):
    return width * SCALE

def anything(width, **others):
    return others

@decorators.wrap
def wrapped(x):
    return x

class Net:
    def __init__(self, width: int, name="net") -> None:
        self.width = width

class Bare:
    pass

class Derived(Net):
    pass

try:
    import nothing_of_that_name as fast
except ImportError:
    def fallback(a): ...

alias = small
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's project as the working directory, with modules that no other test has."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    package = tmp_path / "mine_of_test"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('locate must not run this')\n")
    (package / "nets.py").write_text(NETS)
    (package / "sub").mkdir()
    (package / "sub" / "deep.py").write_text("from ..nets import small\nfrom . import near\n")
    (package / "sub" / "near.py").write_text("")
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.partition(".")[0].endswith("_of_test"):
            del sys.modules[name]


def test_locate_reads_the_signature_and_runs_nothing(project: Path) -> None:
    found = locate("mine_of_test.nets:small")
    assert (found.module, found.function) == ("mine_of_test.nets", "small")
    assert found.path == project / "mine_of_test" / "nets.py"
    assert found.parameters == (Parameter("width", None), Parameter("depth", "3"), Parameter("bias", "True"))
    assert not found.accepts_any
    assert "mine_of_test" not in sys.modules


@pytest.mark.parametrize(
    ("function", "parameters", "accepts_any"),
    [
        ("anything", "width", True),
        ("wrapped", "", True),
        ("Net", "width name='net'", False),
        ("Bare", "", False),
        ("Derived", "", True),
        ("fallback", "a", False),
        ("fast", "", True),
        ("alias", "", True),
        ("joined", "", True),
    ],
)
def test_what_a_module_has_and_how_it_is_called(
    project: Path, function: str, parameters: str, accepts_any: bool
) -> None:
    found = locate(f"mine_of_test.nets:{function}")
    assert " ".join(map(str, found.parameters)) == parameters
    assert found.accepts_any is accepts_any


def test_names_that_the_source_does_not_show_are_allowed(project: Path) -> None:
    (project / "star_of_test.py").write_text("from os.path import *\n")
    (project / "lazy_of_test.py").write_text("def __getattr__(name): ...\n")
    assert locate("star_of_test:join").accepts_any
    assert locate("lazy_of_test:build").accepts_any


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet", '"resnet" is not of the form "package.module:function"'),
        ("a b:c", '"a b:c" is not of the form "package.module:function"'),
        (
            "./mine/nets.py:big",
            '"./mine/nets.py:big" is not of the form "package.module:function"; '
            'a file is named by its module: "mine.nets:big"',
        ),
        ("mine_of_tset.nets:small", 'there is no module "mine_of_tset"; did you mean "mine_of_test"? (looked in '),
        (
            "mine_of_test.netz:small",
            'there is no module "mine_of_test.netz"; did you mean "mine_of_test.nets"? (looked in ',
        ),
        ("mine_of_test.nets.deep:small", '"mine_of_test.nets" is a module ('),
        ("mine_of_test.sub:small", '"mine_of_test.sub" is a folder; name a module in it'),
        ("mine_of_test.nets:smal", 'nets.py has no "smal"; did you mean "small"? (it has: Bare, Derived, Net, SCALE, '),
        ("sys:exit", '"sys" is not Python source (built-in)'),
        ("__main__:nothing_there", "__main__:nothing_there: "),
    ],
)
def test_a_wrong_name_says_what_there_is(project: Path, name: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        locate(name)
    assert message in str(caught.value)
    assert name in str(caught.value)


def test_the_message_names_the_folders_that_were_searched(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    recipes = tmp_path_factory.mktemp("recipes")
    (recipes / "beside_of_test.py").write_text("def f(): ...\n")
    with pytest.raises(UsageError, match="there is no module"):
        locate("beside_of_test:f")
    look_in(recipes)
    assert locate("beside_of_test:f").path == recipes / "beside_of_test.py"
    with pytest.raises(UsageError) as caught:
        locate("absent_of_test:f")
    assert str(project) in str(caught.value)
    assert str(recipes) in str(caught.value)


def test_source_that_is_no_python_is_told_with_its_line(project: Path) -> None:
    (project / "broken_of_test.py").write_text("x = 1\ndef f(:\n")
    with pytest.raises(UsageError, match=r"broken_of_test.py:2 is not valid Python"):
        locate("broken_of_test:f")


def test_arguments_are_checked_against_the_source(project: Path) -> None:
    small = locate("mine_of_test.nets:small")
    assert check_arguments(small, {"width": 8, "bias": False}) == []
    assert check_arguments(small, {"widht": 8}) == [
        'mine_of_test.nets:small has no argument "widht"; did you mean "width"? (arguments: width, depth=3, bias=True)',
        'mine_of_test.nets:small needs the argument "width" (arguments: width, depth=3, bias=True)',
    ]
    assert check_arguments(locate("mine_of_test.nets:anything"), {"width": 1, "more": 2}) == []
    assert check_arguments(locate("mine_of_test.nets:Derived"), {"more": 2}) == []


def test_the_digest_follows_imports_inside_the_project_only(project: Path) -> None:
    def digest() -> str:
        return locate("mine_of_test.sub.deep:small").source_digest

    seen = [digest()]
    assert digest() == seen[0]
    for changed in ("nets.py", "sub/near.py", "sub/deep.py", "__init__.py"):
        path = project / "mine_of_test" / changed
        path.write_text(path.read_text() + "# changed\n")
        seen.append(digest())
    assert len(set(seen)) == len(seen)
    (project / "mine_of_test" / "unrelated.py").write_text("")
    (project / "unrelated_of_test.py").write_text("")
    assert digest() == seen[-1]


def test_the_digest_does_not_depend_on_the_folder(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    text = "import helper_of_test\ndef f(): ...\n"
    digests = []
    for folder in (project, tmp_path_factory.mktemp("elsewhere")):
        (folder / "single_of_test.py").write_text(text)
        (folder / "helper_of_test.py").write_text("A = 1\n")
        sys.path.insert(0, str(folder))
        digests.append(locate("single_of_test:f").source_digest)
        assert locate("single_of_test:f").path.parent == folder
    assert digests[0] == digests[1]


def test_imports_in_a_circle_end(project: Path) -> None:
    (project / "one_of_test.py").write_text("import two_of_test\ndef f(): ...\n")
    (project / "two_of_test.py").write_text("import one_of_test\n")
    assert len(locate("one_of_test:f").source_digest) == 64


def test_locate_finds_shipped_modules_and_loads_no_torch(project: Path) -> None:
    (project / "heavy_of_test.py").write_text("import torch\n\ndef build(width=8): return torch.nn.Linear(width, 2)\n")
    script = (
        "import sys\n"
        "from edgekd.plugin import locate\n"
        "print(locate('heavy_of_test:build').parameters[0])\n"
        "print(locate('edgekd.plugin.locating:locate').parameters[0])\n"
        "print([name for name in ('torch', 'heavy_of_test', 'numpy') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=project)
    assert done.stdout.split("\n")[:3] == ["width=8", "name", "[]"]


def test_load_imports_the_function(project: Path) -> None:
    (project / "fine_of_test.py").write_text("def double(x): return 2 * x\n\nVALUE = 3\n")
    assert load("fine_of_test:double")(4) == 8
    assert call("fine_of_test:double", {"x": 4}) == 8
    assert call(locate("fine_of_test:double"), {"x": 5}) == 10
    with pytest.raises(StageError, match="fine_of_test:VALUE is int, which cannot be called"):
        load("fine_of_test:VALUE")


def test_what_a_users_module_raises_is_told_with_its_line(project: Path) -> None:
    (project / "bad_of_test.py").write_text("import worse_of_test\ndef f(): ...\n")
    (project / "worse_of_test.py").write_text("\n\nraise ValueError('no such luck')\n")
    with pytest.raises(StageError) as caught:
        load("bad_of_test:f")
    place = f"({project / 'worse_of_test.py'}:3)"
    assert str(caught.value) == f"bad_of_test:f: cannot be imported: ValueError: no such luck {place}"


def test_what_a_users_function_raises_is_told_with_its_line(project: Path) -> None:
    (project / "fails_of_test.py").write_text(
        "import json\n\ndef f(text):\n    return json.loads(text)\n\ndef leave():\n    raise SystemExit(3)\n"
    )
    with pytest.raises(StageError) as caught:
        call("fails_of_test:f", {"text": "{"})
    message = str(caught.value)
    assert message.startswith("fails_of_test:f(text='{') failed: JSONDecodeError: ")
    assert message.endswith(f"({project / 'fails_of_test.py'}:4)")
    assert "\n" not in message
    with pytest.raises(StageError, match=r"leave\(\) failed: SystemExit: 3"):
        call("fails_of_test:leave", {})
    with pytest.raises(StageError, match=r"failed: TypeError: .*unexpected keyword argument 'textt'"):
        call("fails_of_test:f", {"textt": 1})


def test_errors_with_a_message_for_the_user_pass_unchanged(project: Path) -> None:
    (project / "polite_of_test.py").write_text(
        "from edgekd.errors import UsageError\ndef f():\n    raise UsageError('give me sensors.csv')\n"
    )
    with pytest.raises(UsageError) as caught:
        call("polite_of_test:f", {})
    assert str(caught.value) == "give me sensors.csv"


def test_a_helper_that_is_no_python_is_told_with_its_line(project: Path) -> None:
    (project / "user_of_test.py").write_text("import helper_of_test\ndef f(): ...\n")
    (project / "helper_of_test.py").write_text("x = 1\nif x\n")
    before = locate("user_of_test:f").source_digest
    with pytest.raises(StageError) as caught:
        load("user_of_test:f")
    assert str(caught.value) == (
        f"user_of_test:f: cannot be imported: SyntaxError: expected ':' ({project / 'helper_of_test.py'}:2)"
    )
    (project / "helper_of_test.py").write_text("x = 1\nif x: pass\n")
    assert locate("user_of_test:f").source_digest != before


def test_the_name_of_a_function(project: Path) -> None:
    assert nameof(locate) == "edgekd.plugin.locating:locate"
    assert nameof(Parameter) == "edgekd.plugin.signature:Parameter"

    def local() -> None: ...

    for wrong, why in (
        (lambda: 0, "cannot be found by its name"),
        (local, "cannot be found by its name"),
        (Parameter("a", None), "neither a function nor a class"),
        (Parameter.__str__, "cannot be found by its name"),
        (functools.wraps(locate)(lambda name: locate(name.strip())), "is not what that name means"),
    ):
        with pytest.raises(UsageError, match=why):
            nameof(wrong)


def test_a_function_of_the_running_script_is_named_by_its_file_and_not_run_twice(project: Path) -> None:
    script = project / "script_of_test.py"
    script.write_text(
        "from edgekd.plugin import load, nameof\n"
        "print('runs')\n"
        "def mine(): return 7\n"
        "print(nameof(mine), load(nameof(mine)) is mine)\n"
    )
    for command in ([str(script)], ["-m", "script_of_test"]):
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True, cwd=project)
        assert done.stdout == "runs\nscript_of_test:mine True\n"


def test_functions_without_a_file_are_refused(project: Path) -> None:
    program = "from edgekd.plugin import nameof\ndef mine(): ...\nnameof(mine)\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=project)
    assert "__main__:mine was typed into an interactive session; write it into a file" in done.stderr
    odd = project / "my-script.py"
    odd.write_text(program)
    done = subprocess.run([sys.executable, str(odd)], capture_output=True, text=True, check=False, cwd=project)
    assert "is in my-script.py, which cannot be imported" in done.stderr
