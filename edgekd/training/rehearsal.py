"""What only a look at the networks shows, before hours of training: the student's faults as early as the teacher's."""

from __future__ import annotations

from collections.abc import Mapping

from edgekd.data import Data
from edgekd.errors import StageError
from edgekd.options import Network
from edgekd.training import networks


def rehearse(recipe_networks: Mapping[str, Network], data: Data, seed: int) -> None:
    """Build a recipe's networks and show each two samples.

    Args:
        recipe_networks: by role, "teacher" and "student".

    Raises:
        StageError: one cannot be built, does not map the data to one row of numbers per sample, or has to be trained
            and has nothing to train.
    """
    for role, network in recipe_networks.items():
        model = networks.build(network, networks.describe(network, data), seed)
        networks.check_outputs(model, data, role)
        if network.epochs and not any(parameter.requires_grad for parameter in model.parameters()):
            raise StageError(f"{role}: the network has no parameter to train")
