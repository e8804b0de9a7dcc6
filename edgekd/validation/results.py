"""The results of a validation as JSON values, which every other form is made from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import onnx
import onnxruntime

from edgekd.errors import DeviceError
from edgekd.report.cases import Case, Status
from edgekd.validation.checks import CHECKS, Check
from edgekd.validation.feeding import Feed
from edgekd.validation.runner import Result
from edgekd.validation.target import Target
from edgekd.version import __version__

SCHEMA = 1


def content(
    results: Sequence[Result], reference: str, feed: Feed, where: Target, absent: bool = False
) -> dict[str, Any]:
    """Return what is known of a validation, with its exit code.

    Args:
        reference: what the models were held against, as the user named it.
        absent: whether a device that was to be measured could not be reached.
    """
    failed = not all(result.passed for result in results)
    return {
        "schema": SCHEMA,
        "status": "failed" if failed else "passed",
        "exit_code": 1 if failed else DeviceError.exit_code if absent else 0,
        "reference": reference,
        "inputs": feed.source,
        "samples": feed.total,
        "labels": feed.labels is not None,
        "device": where.name,
        "runtime": where.backend if not where.absent else "onnxruntime",
        "versions": {"edgekd": __version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__},
        "models": [_model(result) for result in results],
    }


def _model(result: Result) -> dict[str, Any]:
    return {
        "model": str(result.path),
        "status": "passed" if result.passed else "failed",
        "precision": result.precision,
        "same_network": result.same_network,
        "checks": [_check(check) for check in result.checks],
        "bisection": None if result.bisection is None else asdict(result.bisection),
    }


def _check(check: Check) -> dict[str, Any]:
    """Return a check; an infinite value, such as the SQNR of equal answers, is null."""
    told = asdict(check) | {"family": CHECKS[check.id][0], "fails": check.fails}
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in told.items()
    }


def verdict(found: Mapping[str, Any]) -> str:
    """Return what was compared with what, on which inputs."""
    if found["inputs"] == "random":
        inputs = f"{found['samples']} RANDOM inputs, accuracy not measured"
    else:
        inputs = f"{found['samples']} samples of {found['inputs']}{'' if found['labels'] else ', without labels'}"
    return f"against {found['reference']}, on {found['device']} ({found['runtime']}), {inputs}"


def figure(check: Mapping[str, Any]) -> str:
    """Return value and limit of a check as text."""
    if check["value"] is None:
        return ""
    unit = f" {check['unit']}" if check["unit"] else ""
    value = f"{check['value']:.4g}{unit}"
    return value if check["limit"] is None else f"{value} (limit {check['limit']:.4g}{unit})"


_STATUS: Mapping[str, Status] = {"passed": "passed", "failed": "failed", "inconclusive": "failed"}


def cases(found: Mapping[str, Any]) -> list[Case]:
    """Return a case for each check of each model: what makes the exit code 1 has failed, or is an error where it was
    asked for and not judged; what does not apply, or nobody asked for, is skipped."""
    return [
        Case(name(check), model["model"], _case_status(check), told(check), _detail(found, model, check))
        for model in found["models"]
        for check in model["checks"]
    ]


def name(check: Mapping[str, Any]) -> str:
    """Return a check's id, with what it is about."""
    return str(check["id"]) + (f" [{check['subject']}]" if check["subject"] else "")


def told(check: Mapping[str, Any]) -> str:
    """Return value, limit and message of a check in one line."""
    return ", ".join(part for part in (figure(check), check["message"]) if part)


def _case_status(check: Mapping[str, Any]) -> Status:
    if check["status"] == "not_measured" and check["fails"]:
        return "error"
    return _STATUS.get(check["status"], "skipped")


def _detail(found: Mapping[str, Any], model: Mapping[str, Any], check: Mapping[str, Any]) -> str:
    """Return what to do, and where the model departs, for a check that failed."""
    if not check["fails"]:
        return ""
    lines = [f"To do: {check['remedy']}", f"Compared {verdict(found)}"]
    if model["bisection"] and check["family"] == "parity":
        lines += bisection(model["bisection"])
    return "\n".join(lines)


def bisection(found: Mapping[str, Any]) -> list[str]:
    """Return where a model departs, and the nodes on the way there, a line each."""
    steps = [f"  {step['node']} ({step['operator']}): {_decibels(step)}" for step in found["path"]]
    return [f"bisect: {found['message']}", *steps]


def _decibels(step: Mapping[str, Any]) -> str:
    labels = {"sqnr_db": "so far", "own_db": "by itself"}
    parts = [f"{step[key]:.1f} dB {label}" for key, label in labels.items() if step[key] is not None]
    return ", ".join(parts) or "equal, or without a counterpart"
