from __future__ import annotations

from typing import Any

import pytest

from edgekd.errors import UsageError
from edgekd.report.gates import GATES
from edgekd.report.verdict import judge

QUALITY = {"accuracy": 0.98, "agreement_with_teacher": 0.99, "drop_pp": 0.5, "samples": 1000}


def quality(**figures: Any) -> dict[str, Any]:
    known = {**QUALITY, **figures}
    bounds = {"accuracy_ci": [0.97, 0.99], "agreement_ci": [0.98, 1.0], "drop_pp_ci": [0.1, 0.9]}
    return {**known, **bounds}


def variant(**changes: Any) -> dict[str, Any]:
    """A variant's entry: p50 2 ms, p99 3 ms, 4x, 0.5 MB, 20 MB of memory, 5 mJ; quality by split as given."""
    p50 = changes.pop("p50_ms", 2.0) * 1e6
    base = {
        "error": None,
        "role": "candidate",
        "by_class": None,
        "speedup": 4.0,
        "speedup_ci": [3.9, 4.1],
        "no_difference": False,
        "size_bytes": 500_000,
        "latency_ns": {"p50": p50, "p50_ci": [p50 * 0.99, p50 * 1.01], "p99": 3e6, "unstable": False},
        "peak_memory_bytes": 20_000_000,
        "energy_j": 0.005,
        "energy_j_ci": [0.004, 0.006],
        "energy_reason": None,
        "precision": None,
        "reasons": {},
        "validation": quality(),
        **quality(),
    }
    return {**base, **changes}


TEACHER = variant(role="teacher", speedup=1.0, speedup_ci=[1, 1], size_bytes=4_000_000, p50_ms=8.0, drop_pp=0.0)


def device(variants: dict[str, Any], comparisons: list[dict[str, Any]] | None = None, **changes: Any) -> dict[str, Any]:
    base = {
        "error": None,
        "variants": {"teacher": TEACHER, **variants},
        "comparisons": comparisons or [],
        "noise_floor": {"floor": 0.01},
        "state": {"changes": []},
        "method": {},
    }
    return {**base, **changes}


def pair(faster: str, slower: str, ratio: float, *, same: bool = False) -> dict[str, Any]:
    return {"faster": faster, "slower": slower, "ratio": ratio, "ci": [ratio, ratio], "no_difference": same}


def verdict(found: dict[str, Any], **gates: Any) -> dict[str, Any]:
    return judge(found, gates=gates, reference="teacher")


@pytest.mark.parametrize(
    ("gate", "passing", "failing", "value", "reason"),
    [
        ("max_drop_pp", 0.5, 0.4, 0.5, "drop 0.50 pp [0.10, 0.90] > 0.4 pp, by 0.10 pp"),
        ("min_accuracy", 0.98, 0.985, 0.98, "accuracy 0.9800 [0.9700, 0.9900] < 0.985, by 0.0050"),
        ("min_agreement", 0.99, 0.995, 0.99, "agreement 0.9900 [0.9800, 1.0000] < 0.995, by 0.0050"),
        ("min_speedup", 4, 5, 4.0, "speed-up 4.00x [3.90, 4.10] < 5x, by 1.00x"),
        ("max_p50_ms", 2, 1.5, 2.0, "p50 2.00 ms [1.98, 2.02] > 1.5 ms, by 0.50 ms"),
        ("max_p99_ms", 3, 2.5, 3.0, "p99 3.00 ms > 2.5 ms, by 0.50 ms"),
        ("max_size_mb", 0.5, 0.4, 0.5, "size 0.500 MB > 0.4 MB, by 0.100 MB"),
        ("min_compression", 8, 10, 8.0, "compression 8.00x < 10x, by 2.00x"),
        ("max_peak_memory_mb", 20, 10, 20.0, "peak memory 20.0 MB > 10 MB, by 10.0 MB"),
        ("max_energy_mj", 5, 4, 5.0, "energy 5.00 mJ [4.00, 6.00] > 4 mJ, by 1.00 mJ"),
    ],
)
def test_a_gate_passes_at_its_limit_and_fails_beyond_it(
    gate: str, passing: float, failing: float, value: float, reason: str
) -> None:
    found = device({"student": variant()})
    passed, failed = verdict(found, **{gate: passing}), verdict(found, **{gate: failing})
    assert (passed["status"], passed["recommended"], passed["missed"]) == ("passed", "student", [])
    assert passed["gates"][0]["value"] == pytest.approx(value)
    assert (failed["status"], failed["recommended"], failed["best"]) == ("failed", None, "student")
    assert (failed["gates"][0]["reason"], failed["missed"]) == (reason, [gate])


def absent() -> dict[str, Any]:
    """A variant of which nothing at all was measured."""
    nothing = dict.fromkeys(quality())
    keys = ("speedup", "speedup_ci", "no_difference", "size_bytes", "latency_ns", "peak_memory_bytes", "energy_j")
    reasons = {key: f"no {key}" for key in (*nothing, *keys)}
    return variant(
        **dict.fromkeys(keys),
        **nothing,
        validation={**nothing, "samples": 5},
        energy_reason="no meter",
        reasons=reasons,
    )


@pytest.mark.parametrize("gate", [*GATES, "require_energy"])
def test_a_gate_that_was_not_measured_is_not_passed(gate: str) -> None:
    found = verdict(device({"student": absent()}), **{gate: 1.0})
    assert (found["status"], found["recommended"]) == ("not_measured", None)
    assert found["gates"][0]["status"] == "not_measured"
    assert found["gates"][0]["reason"]


def test_every_gate_has_a_case_above() -> None:
    assert len(GATES) == 10


def test_energy_can_be_required() -> None:
    assert verdict(device({"student": variant()}), require_energy=True)["status"] == "passed"
    missing = variant(energy_j=None, energy_j_ci=None, energy_reason="RAPL may be read by root only")
    found = verdict(device({"student": missing}), require_energy=True)
    assert found["status"] == "not_measured"
    assert found["gates"][0]["reason"] == "energy was not measured: RAPL may be read by root only"
    assert verdict(device({"student": missing}), require_energy=False)["status"] == "passed"


def test_failed_outweighs_not_measured() -> None:
    missing = variant(energy_j=None, energy_reason="no meter")
    assert verdict(device({"student": missing}), max_energy_mj=1, max_p50_ms=1)["status"] == "failed"


def test_an_unknown_gate_is_a_usage_error_that_lists_the_known() -> None:
    with pytest.raises(UsageError, match="min_speedup"):
        verdict(device({"student": variant()}), max_latency=1)


def test_the_choice_is_made_on_validation_and_judged_on_test() -> None:
    # On the test split int8 would pass and pruned fail; on validation it is the other way round.
    variants = {
        "pruned": variant(speedup=3.0, drop_pp=1.3, validation=quality(drop_pp=0.8)),
        "int8": variant(speedup=5.0, drop_pp=0.2, validation=quality(drop_pp=1.4)),
    }
    found = verdict(device(variants), max_drop_pp=1.0)
    assert (found["recommended"], found["status"]) == ("pruned", "failed")
    assert (found["gates"][0]["value"], found["gates"][0]["split"]) == (1.3, "test")
    reasons = {candidate["name"]: candidate["reason"] for candidate in found["candidates"]}
    assert reasons["int8"] == "drop 1.40 pp [0.10, 0.90] > 1 pp, by 0.40 pp on validation"


def test_the_fastest_that_passes_is_recommended() -> None:
    variants = {"student": variant(speedup=1.8), "pruned": variant(speedup=2.4)}
    found = verdict(device(variants, [pair("pruned", "student", 1.33)]), max_drop_pp=1)
    assert (found["recommended"], found["status"]) == ("pruned", "passed")
    assert found["candidates"][0] == {"name": "student", "status": "passed", "reason": "slower: 1.80x vs 2.40x"}


def test_within_the_noise_floor_the_smaller_file_wins() -> None:
    variants = {"pruned": variant(speedup=2.41), "int8": variant(speedup=2.40, size_bytes=120_000)}
    found = verdict(device(variants, [pair("pruned", "int8", 1.004, same=True)]), max_drop_pp=1)
    assert found["recommended"] == "int8"
    assert found["why"] == (
        "as fast as pruned within what this run can tell (2.40x and 2.41x), and smaller: 120 kB against 500 kB"
    )
    assert "no faster than int8" in found["candidates"][0]["reason"]
    clear = verdict(device(variants, [pair("pruned", "int8", 1.004)]), max_drop_pp=1)
    assert clear["recommended"] == "pruned"


def test_of_files_of_one_size_the_better_on_validation_wins() -> None:
    def found(best: float) -> dict[str, Any]:
        qat = variant(speedup=2.40, size_bytes=499_999, validation=quality(accuracy=best))
        variants = {"int8": variant(speedup=2.41), "qat": qat}
        return verdict(device(variants, [pair("int8", "qat", 1.004, same=True)]), max_drop_pp=1)

    assert found(0.985)["why"] == (
        "as fast as int8 within what this run can tell (2.40x and 2.41x), and better on validation: "
        "98.50 % against 98.00 %"
    )
    assert [found(best)["recommended"] for best in (0.985, 0.98, 0.979)] == ["qat", "int8", "int8"]


def test_none_passes_the_best_so_far_is_named_with_what_it_missed() -> None:
    variants = {
        "student": variant(speedup=1.5, validation=quality(drop_pp=2.0), drop_pp=2.0),
        "pruned": variant(speedup=2.0, validation=quality(drop_pp=0.2), drop_pp=0.2),
        "int8": variant(speedup=2.5, validation=quality(drop_pp=3.0), drop_pp=3.0),
    }
    found = verdict(device(variants), max_drop_pp=1.0, min_speedup=5)
    assert (found["status"], found["recommended"], found["best"]) == ("failed", None, "pruned")
    assert found["missed"] == ["min_speedup"]
    assert found["why"].startswith("no variant passes every gate; best so far is pruned: speed-up 2.00x")


def test_a_gate_missed_on_validation_stays_missed_although_the_test_split_is_kinder() -> None:
    found = verdict(device({"student": variant(validation=quality(drop_pp=1.2), drop_pp=0.5)}), max_drop_pp=1.0)
    assert (found["status"], found["recommended"]) == ("failed", None)
    assert (found["gates"][0]["value"], found["gates"][0]["split"]) == (1.2, "validation")


def test_without_validation_outputs_the_test_split_still_only_judges() -> None:
    nothing = dict.fromkeys(quality())
    variants = {
        "a": variant(speedup=3.0, validation=nothing, drop_pp=0.1),
        "b": variant(speedup=5.0, validation=nothing, drop_pp=2.0),
    }
    found = verdict(device(variants, [pair("b", "a", 1.7)]), max_drop_pp=1.0)
    assert (found["recommended"], found["status"]) == ("b", "failed")
    assert any("no validation outputs" in remark for remark in found["remarks"])


def test_int8_slower_than_its_float_is_said_and_not_recommended() -> None:
    variants = {"pruned": variant(speedup=2.0), "int8": variant(speedup=1.6, float_counterpart="pruned")}
    found = verdict(device(variants, [pair("pruned", "int8", 1.25)]), max_drop_pp=1.0)
    assert found["recommended"] == "pruned"
    assert found["candidates"][1]["reason"] == "slower than its float pruned: 0.80x"
    assert "int8: slower than its float pruned: 0.80x" in found["remarks"]


def test_every_kind_of_integers_is_judged_beside_its_float_and_the_fastest_that_passes_is_recommended() -> None:
    integers = {"integers": True, "float_counterpart": "pruned", "precision": {"int8": 3}}
    variants = {
        "pruned": variant(speedup=2.0),
        "int8": variant(**integers, speedup=3.0, validation=quality(drop_pp=6.0)),
        "mixed": variant(**integers, speedup=2.5),
        "dynamic": variant(**integers, speedup=1.5),
        "qat": variant(**{**integers, "precision": {"float32": 4}}, speedup=4.0),
    }
    pairs = [pair("mixed", "pruned", 1.25), pair("pruned", "dynamic", 1.33), pair("qat", "mixed", 1.6)]
    found = verdict(device(variants, pairs), max_drop_pp=1.0)
    assert (found["recommended"], found["why"]) == ("mixed", "the fastest that passes every gate (2.50x)")
    reasons = {one["name"]: (one["status"], one["reason"]) for one in found["candidates"]}
    assert reasons["dynamic"] == ("missed", "slower than its float pruned: 0.75x")
    assert reasons["qat"] == ("missed", "does not run as integers on this device (computing layers: 4 float32)")
    assert reasons["int8"][0] == "missed"


def test_int8_slower_than_its_float_is_still_the_one_when_nothing_else_passes() -> None:
    variants = {
        "pruned": variant(speedup=2.0, validation=quality(drop_pp=1.5)),
        "int8": variant(speedup=1.6, float_counterpart="pruned"),
    }
    found = verdict(device(variants, [pair("pruned", "int8", 1.25)]), max_drop_pp=1.0)
    assert (found["recommended"], found["status"]) == ("int8", "passed")
    assert found["why"] == "the only one that passes every gate (1.60x); but slower than its float pruned: 0.80x"


def test_int8_that_does_not_run_as_integers_is_said_and_not_recommended() -> None:
    variants = {
        "pruned": variant(speedup=2.0),
        "int8": variant(speedup=3.0, precision={"float32": 11}, float_counterpart="pruned"),
    }
    found = verdict(device(variants, [pair("int8", "pruned", 1.5)]), max_drop_pp=1.0)
    assert found["recommended"] == "pruned"
    assert found["candidates"][1]["reason"] == "does not run as integers on this device (computing layers: 11 float32)"
    variants["int8"]["precision"] = {"int8": 9, "float32": 2}
    assert verdict(device(variants, [pair("int8", "pruned", 1.5)]), max_drop_pp=1.0)["recommended"] == "int8"


def test_without_gates_nothing_can_fail_and_that_is_said() -> None:
    found = verdict(device({"student": variant()}))
    assert (found["status"], found["recommended"], found["gates"]) == ("passed", "student", [])
    assert "no gate was set: nothing could fail" in found["remarks"]


def test_a_variant_that_does_not_run_here_is_shown_and_the_others_go_on() -> None:
    broken = {**absent(), "error": "NotImplemented: ConvInteger"}
    found = verdict(device({"student": variant(), "int8": broken}), max_drop_pp=1.0)
    assert (found["recommended"], found["status"]) == ("student", "passed")
    assert found["candidates"][1] == {"name": "int8", "status": "error", "reason": "NotImplemented: ConvInteger"}


def test_nothing_runs_nothing_is_measured() -> None:
    found = verdict(device({"student": {**absent(), "error": "boom"}}), max_drop_pp=1.0)
    assert (found["status"], found["gates"][0]["status"], found["why"]) == (
        "not_measured",
        "not_measured",
        "student: boom",
    )


def test_a_device_that_was_not_reached() -> None:
    error = {"kind": "unreachable", "message": "ssh: no route to host"}
    found = verdict(device({"student": variant()}, error=error), max_drop_pp=1.0)
    assert (found["status"], found["why"]) == ("not_measured", "unreachable: ssh: no route to host")


def test_without_a_reference_the_fastest_by_p50_is_chosen() -> None:
    variants = {
        "a": variant(speedup=None, speedup_ci=None, no_difference=None, p50_ms=2.0),
        "b": variant(speedup=None, speedup_ci=None, no_difference=None, p50_ms=1.0),
    }
    found = judge({**device({}), "variants": variants, "comparisons": [pair("b", "a", 2.0)]}, gates={}, reference=None)
    assert found["recommended"] == "b"
    assert found["candidates"][0]["reason"] == "slower: 2.00 ms vs 1.00 ms"


def test_only_the_reference_is_judged_itself() -> None:
    found = verdict(device({}), max_p50_ms=9)
    assert (found["status"], found["recommended"]) == ("passed", "teacher")


def test_what_a_reader_must_know_is_remarked() -> None:
    latency = {"p50": 2e6, "p50_ci": [1.9e6, 2.1e6], "p99": 3e6, "unstable": True}
    slow = variant(speedup=0.7, latency_ns=latency)
    unclear = variant(speedup=1.001, no_difference=True)
    found = verdict(
        device(
            {"slow": slow, "unclear": unclear},
            state={"changes": ["governor: performance -> powersave"]},
            method={"quick": True},
            noise_floor={"floor": 0.08},
            unsteady_warmup=["slow"],
            spinning={"spins": True, "cpu_share_idle": 0.5},
        )
    )
    text = "\n".join(found["remarks"])
    for expected in (
        "slow: slower than teacher (0.70x)",
        "unclear: its speed does not differ from teacher",
        "speed wandered by more than 10 % (slow)",
        "device state changed: governor",
        "quick",
        "noise floor is 8.0%",
        "warm-up did not become steady in its time (slow)",
        "idle sessions kept 50% of the core busy",
    ):
        assert expected in text
