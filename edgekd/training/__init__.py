"""The one training loop, its checkpoints, schedules and views; teacher, distillation and fine-tuning use it."""

import os
import sys

# OpenMP's threads wait for each other by spinning, for milliseconds. On a machine that does something else besides, the
# one that is waited for may not be running: steps of a small network then take several times as long as on one thread.
# Sleeping instead costs little. OpenMP asks once, when torch loads it; the agent's processes shall not inherit it.
if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    import torch  # noqa: F401

    del os.environ["OMP_WAIT_POLICY"]
