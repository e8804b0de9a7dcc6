"""A power meter's program on this machine, run beside a measurement."""

from __future__ import annotations

import sys
import time

import pytest

from edgekd.dispatch.external import RecordingError, recording

PRINTING = "import time\nfor n in range(10**6):\n print(n / 10, 5.0, flush=True)\n time.sleep(0.02)"
CUTTING = "import time\nprint('0 5\\n1 5\\n2 5.', end='', flush=True)\ntime.sleep(60)"


def meter(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_its_lines_are_kept_when_the_measurement_is_done(tmp_path):
    with recording(meter(PRINTING), tmp_path / "external.csv"):
        assert not (tmp_path / "external.csv").exists()
        time.sleep(1)
    lines = (tmp_path / "external.csv").read_text().splitlines()
    assert lines[:3] == ["0.0 5.0", "0.1 5.0", "0.2 5.0"]
    assert all(line.endswith(" 5.0") for line in lines)


def test_a_line_that_was_cut_is_left_out(tmp_path):
    with recording(meter(CUTTING), tmp_path / "external.csv"):
        time.sleep(1)
    assert (tmp_path / "external.csv").read_text() == "0 5\n1 5\n"


def test_nothing_is_kept_of_a_measurement_that_failed(tmp_path):
    with pytest.raises(ZeroDivisionError), recording(meter(PRINTING), tmp_path / "external.csv"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_is_missing_is_named(tmp_path):
    with (
        pytest.raises(RecordingError, match="'no-such-meter' cannot be started: No such file"),
        recording(["no-such-meter"], tmp_path / "external.csv"),
    ):
        pass


def test_a_program_that_ends_early_spoils_the_recording(tmp_path):
    code = "import sys; sys.exit('usb: device lost')"
    with (
        pytest.raises(RecordingError, match=r"ended with exit code 1 before the measurement did: usb: device lost"),
        recording(meter(code), tmp_path / "external.csv"),
    ):
        time.sleep(1)
    assert list(tmp_path.iterdir()) == []
