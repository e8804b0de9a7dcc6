"""MNIST: 60,000 + 10,000 handwritten digits, 28 x 28 grey (LeCun, Cortes, Burges)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgekd.data.loading import family
from edgekd.data.loading.arrays import Source

FAMILY = family.Family(
    name="mnist",
    folder="MNIST",
    sha256={
        "x_train": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "y_train": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "x_test": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "y_test": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    mean=0.1307,
    std=0.3081,
    classes=tuple("0123456789"),
)


def describe(data_dir: Path) -> str:
    """Return where the data are, or whence they will come."""
    return family.describe(FAMILY, data_dir)


def load(data_dir: Path, progress: Callable[[int, int, str], None]) -> Source:
    """Read the data: inputs float32 (N, 1, 28, 28), standardised."""
    return family.load(FAMILY, data_dir, progress)
