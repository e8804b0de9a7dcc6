"""Fashion-MNIST: 60,000 + 10,000 articles of clothing, 28 x 28 grey (Xiao, Rasul, Vollgraf 2017)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgekd.data.loading import family
from edgekd.data.loading.arrays import Source

FAMILY = family.Family(
    name="fashion-mnist",
    folder="FashionMNIST",
    sha256={
        "x_train": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "y_train": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "x_test": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "y_test": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    mirrors=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
    mean=0.2860,
    std=0.3530,
    classes=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
)


def describe(data_dir: Path) -> str:
    """Return where the data are, or whence they will come."""
    return family.describe(FAMILY, data_dir)


def load(data_dir: Path, progress: Callable[[int, int, str], None]) -> Source:
    """Read the data: inputs float32 (N, 1, 28, 28), standardised."""
    return family.load(FAMILY, data_dir, progress)
