"""agent.pyz: the same bytes everywhere, nothing in it that a board lacks, and it runs there."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from agent.networks import linear, quantized

from edgekd.agent import __version__
from edgekd.dispatch.pack import SHEBANG, agent_pyz

ROOT = Path(__file__).parents[2]
OLD = ("3.8", "3.9", "3.10")
REFUSED = ("2.7", "3.5", "3.6", "3.7")
OFFLINE = ("Could not find a version", "No matching distribution", "NewConnectionError", "NameResolutionError")
FOREIGN = {"numpy", "onnxruntime", "openvino", "tensorrt"}

Ran = subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def pyz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pyz") / "agent.pyz"
    agent_pyz(path)
    return path


def interpreter(version: str) -> Path | None:
    """Return a Python of this version, on PATH or of pyenv; a shim of pyenv is none."""
    places = sorted((Path.home() / ".pyenv/versions").glob(f"{version}.*/bin/python{version}"))
    found = shutil.which(f"python{version}")
    for place in [*places, *([Path(found)] if found else [])]:
        if subprocess.run([place, "-c", ""], capture_output=True, check=False).returncode == 0:
            return place
    return None


@pytest.fixture(scope="session")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the oldest Python that can be had, with numpy and ONNX Runtime and nothing else."""
    python = next((found for version in OLD if (found := interpreter(version))), None)
    if python is None:
        pytest.skip(f"no Python {', '.join(OLD)} on this machine")
    folder = tmp_path_factory.mktemp("board")
    subprocess.run([python, "-m", "venv", "--without-pip", folder], check=True)
    (place,) = folder.glob("lib/python3*/site-packages")
    version = place.parent.name[len("python") :]
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--target", place]
    command += ["--python-version", version, "--only-binary", ":all:", "--no-deps", "--no-compile"]
    done = subprocess.run([*command, "numpy", "onnxruntime"], capture_output=True, text=True, check=False)
    if done.returncode and any(sign in done.stderr for sign in OFFLINE):
        pytest.skip(f"pip has no packages for Python {version}: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return folder / "bin/python"


def run(python: Path | str, *arguments: str | Path, cwd: Path, **environment: str) -> Ran:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "ORT_"))}
    return subprocess.run(
        [python, *arguments], cwd=cwd, env={**clean, **environment}, capture_output=True, text=True, check=False
    )


def test_the_same_bytes(pyz: Path, tmp_path: Path) -> None:
    digest = agent_pyz(tmp_path / "again.pyz")
    assert (tmp_path / "again.pyz").read_bytes() == pyz.read_bytes()
    assert hashlib.sha256(pyz.read_bytes()).hexdigest() == digest
    assert pyz.read_bytes().startswith(SHEBANG)
    assert os.access(pyz, os.X_OK)
    with zipfile.ZipFile(pyz) as archive:
        assert archive.namelist() == sorted(archive.namelist())
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}


def test_what_is_in_it(pyz: Path) -> None:
    package = ROOT / "edgekd/agent"
    sources = {f"edgekd/agent/{path.relative_to(package).as_posix()}" for path in package.rglob("*.py")}
    assert len(sources) > 20
    with zipfile.ZipFile(pyz) as archive:
        assert set(archive.namelist()) == {"__main__.py", "edgekd/__init__.py", *sources}
        for name in sources:
            assert archive.read(name) == (ROOT / name).read_bytes()
        assert ast.get_docstring(ast.parse(archive.read("edgekd/__init__.py"))) is not None
        assert len(ast.parse(archive.read("edgekd/__init__.py")).body) == 1  # no import of what a board has not


def imported(tree: ast.AST) -> set[str]:
    """Return the modules that a file imports, with their packages; what is only for type checkers is none."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found.add(str(node.module))
    return found


def test_it_imports_what_a_board_has(pyz: Path) -> None:
    newer = {"tomllib", "zoneinfo", "graphlib", "_typeshed"}  # not in Python 3.8
    removed = {"distutils", "imp", "asyncore", "cgi", "pipes", "telnetlib"}  # not in Python 3.12
    with zipfile.ZipFile(pyz) as archive:
        for name in archive.namelist():
            tree = ast.parse(archive.read(name), filename=name, feature_version=(3, 8))
            for module in imported(tree):
                top = module.partition(".")[0]
                if top == "edgekd":
                    assert module.startswith("edgekd.agent"), f"{name} imports {module}"
                else:
                    assert top in (set(sys.stdlib_module_names) | FOREIGN) - newer - removed, f"{name} imports {module}"


def test_vermin_finds_nothing_newer(tmp_path: Path) -> None:
    """It knows in which Python each function of the library appeared."""
    vermin = Path(sys.executable).with_name("vermin")
    if not vermin.exists():
        pytest.skip("vermin is not installed (the extra dev has it)")
    check = [vermin, "--target=3.8-", "--no-tips", "--violations", "--quiet"]
    assert subprocess.run([*check, ROOT / "edgekd/agent"], check=False).returncode == 0
    (tmp_path / "new.py").write_text("import functools\n@functools.cache\ndef f(): ...\n")
    assert subprocess.run([*check, tmp_path / "new.py"], capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize("version", REFUSED)
def test_an_older_python_is_told(pyz: Path, version: str, tmp_path: Path) -> None:
    python = interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    ran = run(python, pyz, "probe", cwd=tmp_path)
    assert ran.returncode == 1
    assert ran.stderr == f"error: the agent needs Python 3.8 or newer; {python} is Python {version}\n"


def test_numpy_is_missing(pyz: Path, tmp_path: Path) -> None:
    ran = run(sys.executable, "-S", "-E", pyz, "probe", cwd=tmp_path)
    assert ran.returncode == 1
    assert ran.stderr.startswith(f"error: numpy is not installed for {sys.executable}: sudo apt install python3-numpy")
    assert "Traceback" not in ran.stderr


def test_its_own_package_wins(pyz: Path, tmp_path: Path) -> None:
    """Over an installed edgekd, one in the working directory, one on PYTHONPATH; in its children too."""
    for place in (tmp_path / "here", tmp_path / "path"):
        (place / "edgekd/agent").mkdir(parents=True)
        (place / "edgekd/__init__.py").write_text("raise SystemExit('the wrong edgekd')")
        (place / "random.py").write_text("raise SystemExit('the wrong random')")
    # As an installed package the path would come after; PYTHONPATH's random.py would hit any Python program.
    (tmp_path / "path/random.py").unlink()
    environment = {"PYTHONPATH": str(tmp_path / "path")}
    shutil.copy(pyz, tmp_path / "here/agent.pyz")
    ran = run(sys.executable, "agent.pyz", "probe", "--json", cwd=tmp_path / "here", **environment)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["backends"]["onnxruntime"]["version"]
    assert run(sys.executable, pyz, "--version", cwd=tmp_path).stdout == f"{__version__}\n"


def test_an_old_board_probes(board: Path, pyz: Path, tmp_path: Path) -> None:
    ran = run(board, pyz, "probe", "--json", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert told["backends"]["onnxruntime"]["providers"]
    assert told["backends"]["openvino"]["error"].startswith("OpenVINO cannot be imported")
    assert told["sections"]["software"]["python"]["value"].startswith("3.")
    mends = {entry["topic"]: entry["mend"] for entry in told["cannot"]}
    assert mends["openvino"] == f"{board} -m pip install openvino"
    assert "tensorrt" in mends


def test_an_old_board_measures(board: Path, pyz: Path, tmp_path: Path) -> None:
    teacher, student = linear(tmp_path / "teacher.onnx"), quantized(tmp_path / "student.onnx")
    ran = run(
        board, pyz, "bench", student, "--against", teacher, "--quick", "--meter", "none",
        "--batch-size", "2", "--json", "--out", tmp_path / "out", cwd=tmp_path,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert told["inputs"] == "random (seed 0): input float32[2x8]"
    assert told["batch_size"] == 2
    assert told["models"]["student"]["latency_ms"]["calls"] >= 300
    assert told["models"]["student"]["speedup"]["ratio"] > 0
    assert told["models"]["student"]["precision"] == {"int8": 1}
    assert json.loads((tmp_path / "out/measurement.json").read_text())["reference"] == "teacher"


def test_an_old_board_without_the_runtime(board: Path, pyz: Path, tmp_path: Path) -> None:
    ran = run(board, pyz, "bench", linear(tmp_path / "m.onnx"), "--backend", "openvino", cwd=tmp_path)
    assert ran.returncode == 1
    assert ran.stderr.startswith("error: OpenVINO cannot be imported")
    assert "pip install" in ran.stderr


def test_the_runtime_keeps_nothing_to_be_sent(pyz: Path, tmp_path: Path) -> None:
    ran = run(sys.executable, pyz, "probe", "--json", cwd=tmp_path, HOME=str(tmp_path))
    assert '"onnxruntime"' in ran.stdout
    assert list(tmp_path.rglob("*onnxruntime*")) == []
