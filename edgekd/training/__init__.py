"""The one training loop, its checkpoints, schedules and views; teacher, distillation and fine-tuning use it."""

import os
import sys

# OpenMP's threads wait for each other by spinning, for milliseconds. On a machine that does something else besides, the
# one that is waited for may not be running: steps of a small network then take several times as long as on one thread.
# Sleeping instead costs little. And of several processes, each would advise to turn off a check that is cheap and needed
# (DistributedDataParallel, find_unused_parameters). Both are asked for once, when torch is loaded; the agent's processes
# shall not inherit them.
if "torch" not in sys.modules:
    wanted = {"OMP_WAIT_POLICY": "PASSIVE"} | ({"TORCH_CPP_LOG_LEVEL": "ERROR"} if "WORLD_SIZE" in os.environ else {})
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    import torch  # noqa: F401

    for name in added:
        del os.environ[name]
