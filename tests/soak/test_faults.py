"""What goes wrong on purpose ends with the right exit code and one message, and the next run with the same digests."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tiny import ROOT, TINY

from edgekd.errors import EdgekdError
from edgekd.report import build
from tests.soak.test_kills import SEED, assert_clean, digests

pytestmark = pytest.mark.soak

FAULTY = Path(__file__).parent / "faulty.py"
FULL = os.environ.get("EDGEKD_FAULTS", "all") == "all"
"""All of it: `make soak`. Else some of each, chosen by EDGEKD_SOAK_SEED."""
rare = pytest.mark.skipif(not FULL, reason="only with FAULTS=all")
SHORT = [
    *TINY, "quantize.samples=32", "measure.seconds=0.02",
    "teacher={model: mlp, widths: [32], epochs: 3, batch_size: 32}",
    "student={model: mlp, widths: [16], epochs: 2, batch_size: 32}",
]  # fmt: skip
LIMIT_S = 900.0
MOMENTS = ("begun", "worked", "placed")
FLIPS = 100 if FULL else 5
"""Bits of each file of a run that are flipped."""
SMALL_BYTES = 320 << 20


@dataclass(frozen=True)
class Run:
    """A run that has ended: its exit code and what it said."""

    code: int
    said: str

    def ended(self, code: int, *words: str) -> None:
        """Check how it ended: with one message, which has some words, where it did not go well."""
        assert self.code == code, self.said
        assert "Traceback" not in self.said, self.said
        assert self.said.count("error[") == (code in (2, 3)), self.said
        assert "E-BUG" not in self.said, self.said
        for word in words:
            assert word in self.said, self.said


def begin(folder: Path, *fault: str, changes: Sequence[str] = (), out: Path | None = None) -> subprocess.Popen[str]:
    """Start a run with a fault; its store and, if nothing else is said, its report lie in a folder."""
    arguments = ["pipeline", "digits", "--out", str(out or folder / "out")]
    arguments += [part for change in (*SHORT, *changes) for part in ("--set", change)]
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, str(FAULTY), "\x1f".join(fault or ("none",)), *arguments],
        cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "EDGEKD_HOME": str(folder / "store"), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def end(run: subprocess.Popen[str]) -> Run:
    said, _ = run.communicate(timeout=LIMIT_S)
    return Run(run.returncode, said)


def work(folder: Path, *fault: str, **options: Any) -> Run:
    return end(begin(folder, *fault, **options))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store and a report, which nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    started = time.monotonic()
    work(folder).ended(0)
    print(f"\nundisturbed: {time.monotonic() - started:.1f} s, {len(digests(folder))} artifacts; seed {SEED}")
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to be harmed."""
    return shutil.copytree(whole, tmp_path / "copy")


def goes_on(folder: Path, whole: Path) -> None:
    """The same command, given again, ends as the undisturbed run did."""
    work(folder).ended(0)
    assert digests(folder) == digests(whole)


def test_killed_at_every_boundary_of_a_stage(whole, tmp_path):
    """At each artifact: when it is begun, when its work is done, and when it is in its place."""
    moments = random.Random(SEED)
    for number in range(1, len(digests(whole)) + 1, 1 if FULL else 3):
        for moment in MOMENTS if FULL else (moments.choice(MOMENTS),):
            # Of an artifact that is there the next one is the first that is made.
            made = len(list((tmp_path / "store" / "artifacts").glob("*"))) if (tmp_path / "store").exists() else 0
            if made < number:
                killed = work(tmp_path, "killed", moment, str(number - made))
                assert killed.code == -9, killed.said
                assert "Traceback" not in killed.said
    goes_on(tmp_path, whole)
    (tmp_path / "log").touch()
    assert_clean(tmp_path)


@rare
def test_a_loss_that_becomes_no_number(whole, tmp_path):
    work(tmp_path, "nan", "20").ended(3, "became nan", "lower learning_rate")
    goes_on(tmp_path, whole)


@rare
@pytest.mark.parametrize("seconds", ["100000000", "1"])
def test_a_clock_that_jumps(whole, tmp_path, seconds):
    work(tmp_path, "clock", seconds).ended(0)
    assert digests(tmp_path) == digests(whole)


@rare
@pytest.mark.parametrize("moment", [0, 4_000_000_000])
def test_files_that_are_from_the_past_or_the_future(whole, copy, moment):
    for path in (copy / "store").rglob("*"):
        os.utime(path, (moment, moment))
    done = work(copy)
    done.ended(0)
    assert digests(copy) == digests(whole)
    report = json.loads((copy / "out" / "report.json").read_text())
    assert all(row["cached"] for row in report["stages"] if row["artifact"])


AGENTS = {
    "killed for lack of memory": ("os.kill(os.getpid(), signal.SIGKILL)", "was killed, perhaps for lack of memory"),
    "hangs": ("time.sleep(1000)", "was ended after"),
    "garbage": ("print('\\x1b[2J{\"event\": 1}\\n' + '[' * 5000 + '\\n' + 'x' * 10**5, flush=True)", "the agent ended"),
    "says that it is done": ("print('{\"event\": \"done\"}', flush=True)", "measurement.json"),
    "truncated results": (
        "code = real(); path = next(out.rglob('*.npz')); path.write_bytes(path.read_bytes()[:-20]); sys.exit(code)",
        "was altered after it was measured",
    ),
    "a flipped bit": (
        "code = real(); path = sorted(out.rglob('*.npz'))[-1]; data = bytearray(path.read_bytes()); "
        "data[len(data) // 2] ^= 4; path.write_bytes(data); sys.exit(code)",
        "was altered after it was measured",
    ),
    "half a measurement.json": (
        "code = real(); path = out / 'measurement.json'; path.write_text(path.read_text()[:-100]); sys.exit(code)",
        "cannot be read as JSON",
    ),
}  # fmt: skip


def test_agents_that_fail(whole, copy):
    """The report says why there is no measurement, and shows no figure of it."""
    cases = list(AGENTS) if FULL else random.Random(SEED).sample(list(AGENTS), 3)
    for case in cases:
        script, told = AGENTS[case]
        print(f"\nan agent: {case}")
        found = work(copy, "agent", script, changes=["measure.timeout_minutes=0.05"] if case == "hangs" else [])
        found.ended(1, told)
        report = json.loads((copy / "out" / "report.json").read_text())
        assert report["devices"]["cpu"]["error"]["kind"] == "failed"
        assert all(variant["latency_ns"] is None for variant in report["devices"]["cpu"]["variants"].values())
    noise = "print('{\"event\": \"error\"' + '[' * 5000 + '\\nno event\\n', flush=True); sys.exit(real())"
    work(copy, "agent", noise).ended(0)
    assert digests(copy) == digests(whole)


def _flip(path: Path, source: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[source.randrange(len(content))] ^= 1 << source.randrange(8)
    path.write_bytes(content)


def test_a_bit_that_flips_in_every_artifact(whole, copy):
    """In a file of each, whichever that is: all are set aside, and made again as they were."""
    source, kinds = random.Random(SEED), set()
    folders = sorted((copy / "store" / "artifacts").iterdir())
    for _ in range(5 if FULL else 1):
        for folder in folders:
            path = source.choice(sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size))
            kinds.add(path.name)
            _flip(path, source)
        found = work(copy)
        found.ended(0, "corrupted artifact", "it will be made again")
        assert digests(copy) == digests(whole)
        assert len(list((copy / "store" / "set-aside").iterdir())) == len(folders)
        shutil.rmtree(copy / "store" / "set-aside")
    print(f"\nflipped in {', '.join(sorted(kinds))}")


def test_a_bit_that_flips_in_a_file_of_a_run(copy):
    """The report is then refused, or it is the same."""
    source, run = random.Random(SEED), copy / "out"
    expected, refused, kinds = build.build(run), 0, set()
    for path in sorted(path for path in run.rglob("*") if path.is_file() and path.stat().st_size):
        kept = path.read_bytes()
        kinds.add(path.suffix)
        for _ in range(FLIPS):
            _flip(path, source)
            try:
                found = build.build(run)
            except EdgekdError:
                refused += 1
            else:
                assert found == expected, path
            path.write_bytes(kept)
    print(f"\n{refused} refused; flipped in {', '.join(sorted(kinds))}")
    assert refused > 0


@rare
def test_a_bit_that_flips_in_a_checkpoint(tmp_path):
    """Training starts anew with a warning, and ends with the same bits."""
    changes = ["teacher.epochs=200", "prune=false", "quantize=false", "validate=false"]
    run = begin(tmp_path / "harmed", changes=changes)
    checkpoint = _awaited(tmp_path / "harmed" / "store" / "partial", "teacher-*/checkpoint/*.pt", run)
    run.kill()
    run.communicate()
    _flip(checkpoint, random.Random(SEED))
    again = work(tmp_path / "harmed", changes=changes)
    again.ended(0, "its checksum does not fit; the work starts anew")
    work(tmp_path / "fresh", changes=changes).ended(0)
    assert digests(tmp_path / "harmed") == digests(tmp_path / "fresh")


def _awaited(folder: Path, pattern: str, run: subprocess.Popen[str]) -> Path:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline and run.poll() is None:
        for path in folder.glob(pattern):
            return path
        time.sleep(0.05)
    run.kill()
    pytest.fail(f"there was no {pattern}: {run.communicate()[0]}")


@rare
@pytest.mark.parametrize("fault", ["none", "slow"])
def test_several_runs_on_one_store(whole, tmp_path, fault):
    """Each artifact is made once, and all runs have it."""
    count = 8 if FULL and fault == "none" else 2
    folders = [tmp_path / str(number) for number in range(count)]
    for folder in folders:
        folder.mkdir()
        (folder / "store").symlink_to(tmp_path / "store")
    (tmp_path / "store").mkdir()
    runs = [begin(folder, fault) for folder in folders]
    for run, folder in zip(runs, folders, strict=True):
        end(run).ended(0)
        assert digests(folder) == digests(whole)
    made = [json.loads((folder / "out" / "report.json").read_text())["stages"] for folder in folders]
    for rows in zip(*made, strict=True):
        if rows[0]["artifact"]:
            assert sum(not row["cached"] for row in rows) == 1, rows
    assert not (tmp_path / "store" / "set-aside").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """A disk of its own, under the name `disk`, and what mounts it again with other options."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")

    mount(f"size={SMALL_BYTES}")
    try:
        yield lambda options: mount(f"remount,{options}")
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@rare
def test_a_disk_that_fills_up(whole, tmp_path, small_disk):
    run = begin(tmp_path / "disk", changes=["prune.epochs=40"])
    _awaited(tmp_path / "disk" / "store" / "artifacts", "teacher-*", run)
    with (tmp_path / "disk" / "filler").open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(1 << 16))
        except OSError:
            pass
        end(run).ended(3, "no space left")
    (tmp_path / "disk" / "filler").unlink()
    goes_on(tmp_path / "disk", whole)


@rare
def test_a_store_that_becomes_read_only(whole, tmp_path, small_disk):
    work(tmp_path / "disk", "killed", "placed", "2")
    small_disk("ro")
    elsewhere = tmp_path / "elsewhere"
    work(tmp_path / "disk", out=elsewhere).ended(2, "cannot be written: Read-only file system", "EDGEKD_HOME")
    small_disk("rw")
    goes_on(tmp_path / "disk", whole)
