"""From raw samples and raw outputs to numbers, a verdict and the three views of it: JSON, HTML, terminal."""
