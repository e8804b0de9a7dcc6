"""The measuring agent: what runs on the device, with the standard library, numpy and the device's runtime only.

It takes a job directory (models, inputs, what to measure) and gives back a measurement directory of raw samples and raw
outputs. No statistic is computed here. The code keeps to Python 3.8, the system Python of a Jetson with JetPack 5.
"""

__version__ = "0.1.0"

PROTOCOL = 2
"""Version of the job and measurement formats; host and agent must agree on it."""
