"""The measuring agent: what runs on the device, with the standard library, numpy and the device's runtime only.

It takes a job directory (models, inputs, what to measure) and gives back a measurement directory of raw samples and raw
outputs. No statistic is computed here. The code keeps to Python 3.8, the system Python of a Jetson with JetPack 5.
"""

import os

__version__ = "0.1.0"

PROTOCOL = 2
"""Version of the job and measurement formats; host and agent must agree on it."""

# ONNX Runtime reads it once, when it is imported: without it, a thread of its own works beside what is measured, and
# sends what was run to its maker.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
