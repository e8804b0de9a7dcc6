"""Quantization-aware training with teachers: the quantize stage's `mode: qat`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgekd import tasks
from edgekd.compress import bucketing, fake_quantization, naming, quantization
from edgekd.compress.histograms import Histogram
from edgekd.compress.quantizer import LINEARS
from edgekd.data import Data
from edgekd.distill.distill import learn
from edgekd.distill.teachers import sources
from edgekd.errors import StageError
from edgekd.options import Network
from edgekd.stage import Inputs
from edgekd.stages.distill import Options as Distillation
from edgekd.stages.quantize import Options
from edgekd.training import sharding
from edgekd.training.cutting import divide
from edgekd.training.engine import accelerate
from edgekd.training.evaluation import evaluate

EPOCHS = 5
RATE_SHARES = {"adamw": 0.3, "sgd": 0.02}
"""Of the learning rate that the network was trained with. BatchNorm, which is folded here, made up for layers of any
size, as AdamW does and SGD does not: a residual network that was trained at 0.1 ran away at 0.03."""


def train(
    prepared: GraphModule, seen: Mapping[str, Histogram], options: Options, data: Data, inputs: Inputs, out: Path
) -> dict[str, Any]:
    """Train a calibrated graph in place, as the student was trained, with the rounding of its integers.

    The best epoch stays, or what calibration gave where no epoch is as good on the validation split.

    Args:
        seen: what calibration saw of each observer, where it may have left something out.

    Returns:
        The facts of the training; "calibrated_validation" is the score before it, and "kept" says which weights stay.

    Raises:
        StageError: the weights are divided over processes, or as of `learn`.
    """
    engine = accelerate(inputs.compute, "fp32")
    if sharding.shards(engine):
        raise StageError("quantize: FSDP and DeepSpeed cannot divide the graph that mode: qat trains; use plain DDP")
    base: Network = inputs.blocks["student"] or inputs.blocks["teacher"]
    training = trained_as(base, options)
    cut = divide(len(data.train), training)
    calibrated = quantization.observed_state(prepared)
    buckets = (options.weights_bits, options.buckets) if options.buckets else None
    observers = fake_quantization.begin(prepared, seen, (training.epochs or 0) * cut.steps * cut.parts, buckets)
    before = evaluate(prepared, data.validation, tasks.load(inputs.task), accelerate("cpu", "fp32"), divided=False)
    teaching = inputs.blocks["distill"] or Distillation()
    looked = any(term.loss.on == "features" for term in teaching.terms())
    if looked:
        naming.name_layers(prepared)
    facts = learn(
        prepared, teaching, sources(inputs.artifacts), training, data, inputs, out,
        last_bias=last_bias(prepared) if inputs.data.omit else None,
    )  # fmt: skip
    if looked:
        naming.forget_layers(prepared)
    fake_quantization.end(prepared, observers)
    quantization.check_finite(prepared)
    better = facts["validation"] >= before
    if not better:
        quantization.load_observed_state(prepared, calibrated)
    if buckets is not None:
        bucketing.put_on_grid(prepared, *buckets)
    kept = {"validation": max(before, facts["validation"]), "kept": "trained" if better else "calibrated"}
    return {**facts, **kept, "calibrated_validation": before}


def trained_as(base: Network, options: Options) -> Network:
    """Return how the graph is trained: as its network was, but for fewer epochs, more slowly and in full precision.

    In bf16, integers of 8 bits times a scale could not be told apart; and what is compiled has other operators than
    the graph.
    """
    rate = options.learning_rate or base.learning_rate * RATE_SHARES[base.optimizer]
    own = {"epochs": options.epochs or EPOCHS, "learning_rate": rate, "precision": "fp32", "compile": False}
    return base.model_copy(update=own)


def last_bias(prepared: GraphModule) -> Tensor:
    """Return the bias of the linear layer that a graph ends in.

    Raises:
        StageError: it does not end in one that has a bias.
    """
    node = next(node for node in prepared.graph.nodes if node.op == "output")
    last = node.args[0][0] if isinstance(node.args[0], tuple | list) else node.args[0]
    bias = last.args[2] if last.target in LINEARS and len(last.args) > 2 else None
    while isinstance(bias, Node) and bias.op == "call_module":
        bias = bias.args[0]
    if not isinstance(bias, Node):
        raise StageError(
            "data.omit: the bias of a class that the student never saw is set after training, in its last layer; that "
            "must be a torch.nn.Linear with a bias"
        )
    found: torch.nn.Parameter = prepared.get_parameter(str(bias.target))
    return found
