from __future__ import annotations

import json

import pytest

from edgekd import sealing
from edgekd.agent.sealing import fits

CONTENT = {"validation": 0.9125, "names": ["a", "é"], "nested": {"x": None, "y": True}}


def test_what_was_written_is_read(tmp_path):
    sealing.write(tmp_path / "a.json", {**CONTENT, "pair": (1, 2)})
    assert sealing.read(tmp_path / "a.json") == {**CONTENT, "pair": [1, 2]}
    assert fits(json.loads((tmp_path / "a.json").read_text()))


def test_a_bit_that_flips_anywhere_is_noticed_or_changes_nothing(tmp_path):
    path = tmp_path / "a.json"
    sealing.write(path, CONTENT)
    whole, noticed = path.read_bytes(), 0
    for position in range(len(whole)):
        for bit in (0, 3, 6):
            harmed = bytearray(whole)
            harmed[position] ^= 1 << bit
            path.write_bytes(harmed)
            try:
                assert sealing.read(path) == CONTENT  # white space is not content
            except ValueError:
                noticed += 1
    assert noticed > 2 * len(whole)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"seal": 1}', "[" * 100_000, '{"seal": "x", "a": "\\ud800"}'])
def test_what_was_never_sealed_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"checksum|nested|Expecting|surrogates"):
        sealing.read(tmp_path / "a.json")
