"""How long the command line takes to answer, against the interpreter's own start: python benchmarks/startup.py

Both sides are started in turn, in one run; the minimum of each is what the machine can do, the median what it does now.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "edgekd --help": ["-m", "edgekd", "--help"],
    "edgekd recipe list": ["-m", "edgekd", "recipe", "list"],
    "edgekd device list": ["-m", "edgekd", "device", "list"],
    "edgekd recipe show --resolved": ["-m", "edgekd", "recipe", "show", "--resolved"],
}
BARE = ["-c", "pass"]


def seconds(arguments: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {name: [] for name in ["python -c pass", *COMMANDS]}
    for _ in range(rounds):
        times["python -c pass"].append(seconds(BARE))
        for name, arguments in COMMANDS.items():
            times[name].append(seconds(arguments))
    bare = times["python -c pass"]
    print(f"{'command':<32} {'min s':>7} {'median s':>9} {'ratio of minima to bare python':>32}")
    for name, found in times.items():
        print(f"{name:<32} {min(found):7.3f} {statistics.median(found):9.3f} {min(found) / min(bare):32.1f}")


if __name__ == "__main__":
    main()
