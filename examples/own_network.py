"""Distill your own network on your own data: python examples/own_network.py"""

import sys

from sklearn.datasets import load_breast_cancer
from torch import nn

from edgekd import Recipe, run


def splits():
    """Return (inputs, labels) of the training, validation and test split."""
    x, y = load_breast_cancer(return_X_y=True)
    x = ((x - x.mean(0)) / x.std(0)).astype("float32")
    return (x[:369], y[:369]), (x[369:469], y[369:469]), (x[469:], y[469:])


def network(width):
    """Return a network of two hidden layers."""
    return nn.Sequential(nn.Linear(30, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))


if __name__ == "__main__":
    recipe = Recipe.of(
        name="own-network",
        data=splits,
        teacher={"model": network, "args": {"width": 512}, "epochs": 20, "batch_size": 32},
        student={"model": network, "args": {"width": 32}, "epochs": 40, "batch_size": 32},
        prune={"ratio": 0.5, "epochs": 20},
        measure={"quick": True},
        gates={"max_drop_pp": 3, "min_compression": 10},
    )
    result = run(recipe, devices=["cpu"], out=sys.argv[1] if len(sys.argv) > 1 else None)
    verdict = result.report["devices"]["cpu"]["verdict"]
    print(f"{verdict['status']}: use {verdict['recommended']}, report in {result.path}/report.html")
    sys.exit(result.exit_code)
