"""No input, however strange, makes a parser fall over.

`make test` tries a few hundred on each, always the same ones; `make soak` 100,000, or as many as fit into
EDGEKD_FUZZ_SECONDS.
"""

from __future__ import annotations

import os
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.mutating import mutated
from fuzz.targets import TARGETS, check, seeds

SECONDS = float(os.environ.get("EDGEKD_FUZZ_SECONDS", "60"))
INPUTS = 100_000
SEED = int(os.environ.get("EDGEKD_SOAK_SEED", "0"))
pytestmark = pytest.mark.filterwarnings("ignore")  # of numpy and Pillow about strange files


@pytest.mark.parametrize("name", TARGETS)
def test_each_input_of_the_corpus_is_read_or_refused(name: str) -> None:
    assert seeds(name)
    for content in seeds(name):
        check(TARGETS[name], content)


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_almost_right_is_read_or_refused(name: str) -> None:
    corpus = seeds(name)

    @settings(max_examples=200, derandomize=True, database=None)
    @given(st.randoms(use_true_random=False) | st.binary(max_size=300))
    def feed(source: random.Random | bytes) -> None:
        check(TARGETS[name], source if isinstance(source, bytes) else mutated(corpus, source))

    feed()


@pytest.mark.soak
@pytest.mark.parametrize("name", TARGETS)
def test_very_many_inputs(name: str) -> None:
    corpus, source = seeds(name), random.Random(f"{SEED} {name}")
    until, done = time.monotonic() + SECONDS, 0
    while done < INPUTS and time.monotonic() < until:
        content = mutated(corpus, source)
        try:
            check(TARGETS[name], content)
        except BaseException:
            print(f"\n{name}: put this into tests/fuzz/corpus/{name}/: bytes.fromhex({content.hex()!r})")
            raise
        done += 1
    print(f"\n{name}: {done} inputs in {SECONDS - max(0.0, until - time.monotonic()):.0f} s, seed {SEED}")
