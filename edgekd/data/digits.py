"""Handwritten digits, 8 x 8 grey, 1,797 real ones that come with scikit-learn (Alpaydin, Kaynak; UCI). No download.

The test split is a quarter of them, the same one always and balanced by class.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from edgekd.data.loading.arrays import Source, Split, pixel_preprocessing, pixels
from edgekd.data.loading.splitting import hold_out
from edgekd.errors import UsageError

_SCALE = 1 / 16  # a pixel counts the dark points in a 4 x 4 block
_MEAN, _STD = 0.3053, 0.3760  # of the training split, scaled to [0, 1]
_TEST = 0.25
_SEED = 1797


def describe(data_dir: Path) -> str:  # noqa: ARG001  # the same for every data set
    """Return where the data are.

    Raises:
        UsageError: scikit-learn, which carries them, is not installed.
    """
    if find_spec("sklearn") is None:
        raise UsageError("the digits come with scikit-learn, which is not installed: pip install 'edgekd[train]'")
    return "digits in scikit-learn"


def load(data_dir: Path, progress: Callable[[int, int, str], None]) -> Source:  # noqa: ARG001
    """Read the data: inputs float32 (N, 1, 8, 8), standardised."""
    describe(data_dir)
    from sklearn.datasets import load_digits  # noqa: PLC0415  # an extra

    images, labels = load_digits(return_X_y=True)
    inputs = pixels(images.reshape(-1, 1, 8, 8), scale=_SCALE, mean=_MEAN, std=_STD)
    train, test = hold_out(Split(inputs, labels.astype(np.int64)), _TEST, (_SEED,))
    preprocessing = pixel_preprocessing(scale=_SCALE, mean=_MEAN, std=_STD)
    return Source(train, None, test, tuple("0123456789"), preprocessing)
