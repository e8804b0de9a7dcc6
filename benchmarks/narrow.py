"""Narrow layers, whose integers win nothing: does a budget find a network that is faster and no less accurate?

A narrow student is distilled and quantized; on its few channels ONNX Runtime's integers take as long as its floats, or
longer. A budget then asks for a network in floats that is 5 % faster than those integers and as accurate on the
validation split, of a wide student of the same teacher, with as many epochs in all. Then all files are measured in one
interleaved run beside the narrow integers, over the test split of 10,000 images.

The claims: the narrow floats are no slower than the narrow integers; what was found is faster than the integers, with
its whole interval, and at least as accurate. Exit code 1 where one fails.

Usage: python benchmarks/narrow.py --data-dir DATA [--work FOLDER] [--width 8] [--samples 6000] [--epochs 8]
A tiny form, to see it work: --samples 300 --epochs 1 --networks 20
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from machine import here

from edgekd import bench, making, pipeline
from edgekd.artifact import Artifact
from edgekd.making import Show
from edgekd.profiles import Handling
from edgekd.recipe import Recipe
from edgekd.search import budget
from edgekd.steps import Step

FASTER = 1.05
"""What the budget asks for, over the narrow integers: less could not be told from them."""
DEVICE, POINT = "cpu", "found"
SHOW = Show(say=lambda text: print(f"  {text}", file=sys.stderr, flush=True))


def recipe(arguments: argparse.Namespace, *overrides: str) -> Recipe:
    given = [
        f"data.train_samples={arguments.samples}",
        f"data.validation={arguments.samples // 4}",
        f"teacher.epochs={arguments.epochs}",
    ]
    return Recipe.load("fashion-mnist-budget", [*given, *overrides])


def narrow(arguments: argparse.Namespace, store: Path) -> tuple[float, float, dict[str, Path]]:
    """Make the narrow student.

    Returns:
        The speed-up of its integers over the teacher, their accuracy on the validation split, and its files.
    """
    asked = recipe(
        arguments, "budget=null", f"student.width={arguments.width}", f"student.epochs={2 * arguments.epochs}"
    )
    run = pipeline.run(asked, [DEVICE], store=store, data_dir=arguments.data_dir, show=SHOW)
    job = pipeline.prepare(asked, [DEVICE], store=store, data_dir=arguments.data_dir, show=SHOW)
    known, _ = pipeline.stages(job)
    files = exported("narrow", [step for step in job.steps if step.variant != "teacher"], known)
    own = run.report["devices"][DEVICE]["variants"]["int8"]
    return own["speedup"], own["validation"]["accuracy"], files


def exported(name: str, made: Sequence[Step], known: Mapping[str, Artifact]) -> dict[str, Path]:
    """Return the files of the exporting steps among some, as `name-float` and `name-int8`."""
    artifacts = [known[step.label] for step in made if step.name == "export"]
    kinds = {bool(one.facts["quantized_layers"]): one.path / one.facts["file"] for one in artifacts}
    return {f"{name}-{'int8' if integers else 'float'}": path for integers, path in kinds.items()}


def found(arguments: argparse.Namespace, store: Path, speedup: float, accuracy: float) -> dict[str, Path]:
    """Look for a network by a budget, and return its file."""
    point = f"budget={{min_speedup: {FASTER * speedup:.3f}, min_accuracy: {accuracy:.4f}, "
    asked = recipe(
        arguments, f"student.epochs={arguments.epochs}", "quantize=false",
        f"{point}networks: {arguments.networks}, epochs: {arguments.epochs}, minutes: 15}}",
    )  # fmt: skip
    job = pipeline.prepare(asked, [DEVICE], store=store, data_dir=arguments.data_dir, show=SHOW)
    making.rehearse(job.shop, job.recipe, pipeline.plan(job))
    known, _ = pipeline.stages(job)
    more = budget.search(job, known, Handling(), budget.learned())
    told = more.content["budget"]["points"][POINT]
    print(
        f"the search: {told['refused'] or 'met'}; widths {told['prune']['widths']}, without {told['prune']['blocks']}"
    )
    return exported("found", [step for step in more.steps if not step.variant.startswith("baseline")], more.artifacts)


def measured(files: Mapping[str, Path], against: Path, arguments: argparse.Namespace) -> Mapping[str, Any]:
    """Return the figures of files by name, as of a report, those of the one that they are compared with among them."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        copies = [Path(shutil.copy(path, folder / f"{name}.onnx")) for name, path in files.items()]
        run = bench(copies, DEVICE, against=against, data="fashion-mnist", data_dir=arguments.data_dir,
                    out=folder / "run", show=SHOW)  # fmt: skip
        variants: Mapping[str, Any] = run.report["devices"][DEVICE]["variants"]
        return variants


def shown(name: str, own: Mapping[str, Any]) -> str:
    faster = f"{own['speedup']:.3f} [{own['speedup_ci'][0]:.3f}, {own['speedup_ci'][1]:.3f}]"
    low, high = own["drop_pp_ci"]
    gained = f"{-own['drop_pp']:+.2f} [{-high:+.2f}, {-low:+.2f}]"
    return f"| {name} | {own['latency_ns']['p50'] / 1e3:.1f} | {faster} | {own['accuracy']:.2%} | {gained} |"


def measure(arguments: argparse.Namespace, store: Path) -> bool:
    """Make both sides, print what they are, and return whether the claims hold."""
    speedup, accuracy, own = narrow(arguments, store)
    print(f"narrow integers: {speedup:.2f}x the teacher's speed, {accuracy:.2%} on the validation split")
    others = found(arguments, store, speedup, accuracy)
    against = own.pop("narrow-int8")
    figures = measured({**own, **others}, against, arguments)
    print("\n| network | p50 us | speed-up over the narrow integers, 95 % | test accuracy | minus theirs, pp |")
    print("|---|---|---|---|---|")
    for name, one in figures.items():
        print(shown("narrow-int8" if name == "reference" else name, one))
    floats, best = figures["narrow-float"], figures["found-float"]
    claims = {
        "the narrow floats are no slower than the narrow integers": floats["speedup_ci"][1] >= 1,
        "what was found is faster than the narrow integers": best["speedup_ci"][0] > 1,
        "and at least as accurate": best["drop_pp"] <= 0,
    }
    print()
    for claim, holds in claims.items():
        print(f"  {'ok    ' if holds else 'FAILED'} {claim}")
    return all(claims.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--work", type=Path, help="keep everything here, and go on from it")
    parser.add_argument("--width", type=int, default=8, help="of the narrow student")
    parser.add_argument("--samples", type=int, default=6000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--networks", type=int, default=100)
    arguments = parser.parse_args()
    print(here())
    print(f"{' '.join(sys.argv)}\n")
    with tempfile.TemporaryDirectory() as temporary:
        held = measure(arguments, arguments.work or Path(temporary))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
