from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.errors import EdgekdError, UsageError
from edgekd.report import build
from edgekd.report.external import SCOPE, add_power, parse

from .meters import S
from .synthetic import STUDENT, TEACHER

Make = Callable[..., Path]

UNIT_S = 3.0
START_S = 777.0
LOADS = {"teacher": 9.0, "student": 6.0, None: 3.0}
INFERENCES = 1000


@pytest.mark.parametrize(
    ("text", "times", "watts"),
    [
        ("0,1.5\n1,2.5\n", [0, 1], [1.5, 2.5]),
        ("0 1.5\n1.5\t2.5\n", [0, 1.5], [1.5, 2.5]),
        ("time,watts\r\n# a remark\r\n\r\n10;3e0\r\n11;4\r\n", [10, 11], [3, 4]),
        ("2026-01-01T00:00:00Z,1\n2026-01-01T01:00:00.25+01:00,2\n", [1767225600, 1767225600.25], [1, 2]),
        ("2026-01-01 00:00:00 1\n2026-01-01 00:00:01 -0.5\n", [1767225600, 1767225601], [1, -0.5]),
    ],
)
def test_readings_are_read(text: str, times: list[float], watts: list[float]) -> None:
    found = parse(text, "meter.csv")
    assert found.times_s.tolist() == times
    assert found.watts.tolist() == watts
    assert found.scope == SCOPE


def test_the_file_may_say_what_is_counted() -> None:
    assert parse("# scope: 5 V input of the board\ntime watts\n0 1\n1 1\n", "f").scope == "5 V input of the board"
    assert parse("0 1\n# scope: too late\n1 1\n", "f").scope == SCOPE


def test_all_that_is_wrong_with_a_file_is_told_by_line() -> None:
    text = "time,watts\n0,1\n0,2\nx,3\n4,y\n5\n6,nan\ninf,7\n8,9,10\n7,1e30\n"
    with pytest.raises(EdgekdError) as caught:
        parse(text, "meter.csv")
    message = str(caught.value)
    for expected in (
        "meter.csv cannot be read",
        "line 3: its time is not after that of the line before",
        "line 4: 'x' is neither seconds nor an ISO 8601 time",
        "line 5: 'y' is no number of watts",
        "line 6: '5' is not a time and watts",
        "line 7: 'nan' is no power",
        "line 8: 'inf' is no time",
        "line 9: '8,9,10' is not a time and watts",
        "line 10: '1e30' is no power",
    ):
        assert expected in message
    with pytest.raises(EdgekdError, match="holds no readings"):
        parse("time,watts\n", "f")
    with pytest.raises(EdgekdError, match="line 2: "):
        parse("time,watts\nand more words\n", "f")
    with pytest.raises(EdgekdError, match=r"\.\.\. and 90 more"):
        parse("x\n" * 101, "f")


def external(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Make a measurement one of an external meter; return what that meter would say on the device's clock."""
    bursts, windows, loads = [], [], []
    now = START_S

    def group() -> None:
        nonlocal now
        now += 2 * UNIT_S
        for length, pause in zip((2, 1, 3), (1, 2, 2), strict=True):
            bursts.append([round(now * S), round((now + length * UNIT_S) * S)])
            loads.append((now, now + length * UNIT_S, 9.0))
            now += (length + pause) * UNIT_S

    group()
    for variant in (None, *(["teacher", "student"] * 5), None):
        windows.append({
            "kind": "active" if variant else "idle", "variant": variant, "start_ns": round((now + 2) * S),
            "end_ns": round((now + 62) * S), "seconds": 60.0, "inferences": INFERENCES if variant else 0, "late": 0,
            "mean_power_w": None, "rejected": None,
        })  # fmt: skip
        loads.append((now, now + 64, LOADS[variant]))
        now += 64
    group()
    energy = {
        "channels": [], "total": [], "period_s": 1.0, "pace_hz": None, "bursts": bursts, "warmup": None,
        "windows": windows,
    }  # fmt: skip
    path = folder / "samples/energy.json"
    path.write_text(json.dumps(energy))
    content = json.loads((folder / "measurement.json").read_text())
    content["files"]["samples/energy.json"] = hashlib.sha256(path.read_bytes()).hexdigest()
    content["energy"] |= {"meter": "external", "reason": None, "scope": "supply", "windows": "samples/energy.json"}
    (folder / "measurement.json").write_text(json.dumps(content))
    times = np.arange(START_S - 30.3, now + 30, 1.0)
    watts = np.full(len(times), 3.0)
    for start, end, power in loads:
        inside = np.clip(np.minimum(end, times + 0.5) - np.maximum(start, times - 0.5), 0, 1)
        watts += (power - 3.0) * inside
    return times, watts


@pytest.fixture
def metered(make_run: Make) -> tuple[Path, np.ndarray, np.ndarray]:
    run = make_run({"teacher": TEACHER, "student": STUDENT}, rounds=5, gates={"require_energy": True})
    return run, *external(run / "measurements/cpu")


def written(path: Path, times: np.ndarray, watts: np.ndarray) -> Path:
    path.write_text(
        "time,watts\n" + "".join(f"{time:.4f},{power:.5f}\n" for time, power in zip(times, watts, strict=True))
    )
    return path


def test_energy_comes_from_the_meter_in_the_cable(metered: Any, tmp_path: Path) -> None:
    run, times, watts = metered
    before = build.build(run)["devices"]["cpu"]
    assert before["variants"]["student"]["energy_reason"] == (
        "the samples of the external meter are missing: edgekd report RUN --power cpu=FILE.csv"
    )
    assert before["verdict"]["status"] == "not_measured"
    file = written(tmp_path / "meter.csv", 1.7e9 + times * 1.0002, watts)
    told = add_power(run, "cpu", file)
    assert "its clock drifts by +" in told
    assert (run / "measurements/cpu/external.csv").read_bytes() == file.read_bytes()
    assert not [path for path in (run / "measurements/cpu").iterdir() if path.name.startswith(".")]
    device = build.build(run)["devices"]["cpu"]
    for name in ("teacher", "student"):
        assert device["variants"][name]["energy_j"] == pytest.approx(LOADS[name] * 60 / INFERENCES, rel=1e-3)
    assert device["variants"]["student"]["energy_detail"]["ratio_to_reference"] == pytest.approx(1.5, rel=1e-3)
    assert device["energy"]["scope"] == SCOPE
    assert device["energy"]["clock"]["drift"] == pytest.approx(2e-4, abs=2e-5)
    assert device["verdict"]["status"] == "passed"


def test_what_is_kept_but_broken_is_a_reason(metered: Any) -> None:
    run, _, _ = metered
    (run / "measurements/cpu/external.csv").write_text("time,watts\n0,1\n0,1\n")
    variant = build.build(run)["devices"]["cpu"]["variants"]["student"]
    assert variant["energy_j"] is None
    assert "its time is not after" in variant["energy_reason"]


def test_a_file_that_does_not_fit_is_not_kept(metered: Any, make_run: Make, tmp_path: Path) -> None:
    run, times, watts = metered
    with pytest.raises(EdgekdError, match="do not show the marker bursts"):
        add_power(run, "cpu", written(tmp_path / "other.csv", times, watts[::-1]))
    with pytest.raises(EdgekdError, match="cannot be read"):
        add_power(run, "cpu", tmp_path / "absent.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(EdgekdError, match="cannot be read"):
        add_power(run, "cpu", tmp_path / "binary.csv")
    with pytest.raises(UsageError, match="measured devices are: cpu"):
        add_power(run, "jetson", tmp_path / "other.csv")
    bare = make_run(rounds=5, name="bare")
    with pytest.raises(UsageError, match=r"not measured with an external meter \(no readable RAPL domain\)"):
        add_power(bare, "cpu", tmp_path / "other.csv")
    assert not list(run.rglob("external.csv"))
