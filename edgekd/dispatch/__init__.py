"""Run a measurement job on a device's agent, and bring the measurement back."""
