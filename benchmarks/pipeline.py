"""Wall time of a recipe, cold and cached, in one run: python benchmarks/pipeline.py [RECIPE and options]"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time


def seconds(arguments: list[str], store: str) -> float:
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "edgekd", "pipeline", *arguments],
        env={**os.environ, "EDGEKD_HOME": store}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode not in (0, 1):
        sys.exit(f"exit code {done.returncode}: {done.stderr}")
    return time.perf_counter() - start


def main() -> None:
    arguments = sys.argv[1:]
    with tempfile.TemporaryDirectory() as store:
        cold = seconds(arguments, store)
        cached = seconds(arguments, store)
    print(f"edgekd pipeline {' '.join(arguments)}")
    print(f"cold    {cold:7.1f} s   everything is made and measured")
    print(f"cached  {cached:7.1f} s   only measured; {cold / cached:.1f}x faster")


if __name__ == "__main__":
    main()
