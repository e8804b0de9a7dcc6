"""The one training loop, its checkpoints, schedules and views; teacher, distillation and fine-tuning use it."""

import os
import sys

# OpenMP's threads wait for each other by spinning, for milliseconds. On a machine that does something else besides, the
# one that is waited for may not be running: steps of a small network then take several times as long as on one thread.
# Sleeping instead costs little. And each of several processes would advise against a check that is cheap and needed
# (DistributedDataParallel, find_unused_parameters). Both are asked for once, when torch is loaded; the agent's
# processes shall not inherit them.
if "torch" not in sys.modules:
    _wanted = {"OMP_WAIT_POLICY": "PASSIVE"} | ({"TORCH_CPP_LOG_LEVEL": "ERROR"} if "WORLD_SIZE" in os.environ else {})
    _added = {name: value for name, value in _wanted.items() if name not in os.environ}
    os.environ.update(_added)
    import torch  # noqa: F401

    for _name in _added:
        del os.environ[_name]
