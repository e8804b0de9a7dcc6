"""Networks are what their papers say, and come back from an artifact's folder as they went in."""

from __future__ import annotations

import errno
import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgekd import models
from edgekd.compress import depth, pruning
from edgekd.errors import EdgekdError, StageError
from edgekd.models import Description, resnet
from edgekd.stages.prune import Options

SHAPES = {"mlp": (1, 28, 28), "convnet": (1, 8, 8), "resnet": (1, 28, 28)}


def described(name: str, **args) -> Description:
    shape = SHAPES[name]
    return Description(f"edgekd.models.{name}:build", {"input_shape": list(shape), "classes": 10, **args}, shape)


def trained(description: Description) -> nn.Module:
    """Return a network with weights and statistics unlike those it is made with."""
    torch.manual_seed(0)
    model = models.create(description)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.1, 1.0).mul_(torch.randint(0, 2, tensor.shape) * 2 - 1 if tensor.ndim > 1 else 1)
    return model.eval()


def dense(*sizes: int) -> int:
    return sum((inputs + 1) * outputs for inputs, outputs in pairwise(sizes))


@pytest.mark.parametrize(
    ("name", "args", "count"),
    [
        ("mlp", {"widths": [512, 256]}, 535_818),
        ("mlp", {"widths": [128, 64]}, 109_386),
        ("mlp", {"widths": []}, dense(784, 10)),
        ("mlp", {"widths": [7, 5, 3]}, dense(784, 7, 5, 3, 10)),
        ("resnet", {"width": 16, "blocks": [1, 1, 1]}, 77_754),
        ("convnet", {"width": 16, "blocks": [1, 2]}, 9 * (16 + 16 * 32 + 32 * 32) + 2 * (16 + 32 + 32) + 33 * 10),
    ],
)
def test_the_number_of_parameters(name, args, count):
    assert models.parameters(models.create(described(name, **args))) == count


def test_the_mlps_are_those_of_the_recipe():
    assert dense(784, 512, 256, 10) == 535_818
    assert dense(784, 128, 64, 10) == 109_386


@pytest.mark.parametrize("blocks", [(1, 1, 1), (3, 3, 3), (2, 1)])
@pytest.mark.parametrize("width", [4, 16])
def test_a_resnet_has_the_parameters_of_its_layers(width, blocks):
    """Per block two 3x3 convolutions with normalisation, and a 1x1 one where the shape changes."""
    count, inputs = 9 * width + 2 * width, width
    for stage, repeats in enumerate(blocks):
        outputs = width * 2**stage
        for _ in range(repeats):
            count += 9 * inputs * outputs + 9 * outputs**2 + 4 * outputs
            count += inputs * outputs + 2 * outputs if inputs != outputs else 0
            inputs = outputs
    model = models.create(described("resnet", width=width, blocks=list(blocks)))
    assert models.parameters(model) == count + (inputs + 1) * 10
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    weighted = [layer for layer in layers if not isinstance(layer, nn.Conv2d) or layer.kernel_size != (1, 1)]
    assert len(weighted) == 2 + 2 * sum(blocks)


def test_a_residual_block_adds_its_input():
    block = resnet.Block(4, 4, 1).eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.randn(2, 4, 6, 6)
    torch.testing.assert_close(block(x), x.relu())
    assert resnet.Block(4, 8, 2).eval()(x).shape == (2, 8, 3, 3)


@pytest.mark.parametrize("name", SHAPES)
def test_every_network_takes_any_batch_and_trains_every_parameter(name):
    model = models.create(described(name)).train()
    outputs = model(torch.randn(3, *SHAPES[name]))
    assert outputs.shape == (3, 10)
    outputs.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", SHAPES)
def test_what_is_saved_comes_back_with_identical_outputs(name, tmp_path):
    model, inputs = trained(described(name)), torch.randn(5, *SHAPES[name])
    models.save(tmp_path, described(name), model.state_dict())
    loaded = models.load(tmp_path)
    assert not loaded.training
    assert torch.equal(loaded(inputs), model(inputs))
    assert models.describe(tmp_path) == described(name)


@pytest.mark.parametrize("name", SHAPES)
def test_a_network_pruned_twice_comes_back_in_another_process(name, tmp_path):
    model, description = trained(described(name, **({"blocks": [1, 2]} if name == "convnet" else {}))), described(name)
    description = described(name, **({"blocks": [1, 2]} if name == "convnet" else {}))
    if name == "resnet":
        depth.remove(model, ["stages.0.0"])
        description = description.edited({"edit": "depth", "removed": ["stages.0.0"]})
    for ratio in (0.25, 0.5):
        history = pruning.remove_channels(model, Options(ratio=ratio, round_to=4), description.input_shape)
        description = description.edited({"edit": "pruning", "history": history})
    models.save(tmp_path, description, model.state_dict())
    inputs = torch.randn(5, *SHAPES[name], generator=torch.Generator().manual_seed(3))
    assert torch.equal(models.load(tmp_path)(inputs), model(inputs))
    script = (
        "import sys, torch; from edgekd import models; torch.set_num_threads(1)\n"
        f"x = torch.randn(5, *{SHAPES[name]}, generator=torch.Generator().manual_seed(3))\n"
        "sys.stdout.write(models.load(__import__('pathlib').Path(sys.argv[1]))(x).detach().numpy().tobytes().hex())"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert done.stdout == model(inputs).detach().numpy().tobytes().hex()
    finally:
        torch.set_num_threads(threads)


def test_tied_weights_are_saved_and_stay_tied(tmp_path):
    description = Description(f"{__name__}:tied", {}, (4,))
    model = models.create(description)
    models.save(tmp_path, description, model.state_dict())
    loaded = models.load(tmp_path)
    assert loaded[0].weight is loaded[2].weight
    assert torch.equal(loaded[0].weight, model[0].weight)


def tied() -> nn.Module:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    return nn.Sequential(first, nn.ReLU(), second)


def edited(folder: Path, **changes) -> None:
    path = folder / models.DESCRIPTION
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "schema 2, this version of edgekd reads 1"),
        ({"edits": [{"edit": "..data.loading"}]}, "'..data.loading' is not an edit"),
        ({"edits": [{"edit": "os.path"}]}, "'os.path' is not an edit"),
        ({"edits": [{"edit": "exporting"}]}, "'exporting' is not an edit"),
        ({"edits": [{"edit": "absent"}]}, "'absent' is not an edit"),
        ({"edits": [{"edit": 3}]}, "3 is not an edit"),
        ({"edits": [{}]}, "None is not an edit"),
        ({"edits": ["pruning"]}, "does not describe a network"),
        ({"edits": None}, "does not describe a network"),
        ({"args": 4}, "does not describe a network"),
        ({"input_shape": ["a"]}, "does not describe a network"),
        ({"factory": "edgekd.models.absent:build"}, "edgekd.models.absent"),
        ({"factory": "edgekd.models.mlp:absent"}, "absent"),
        ({"factory": "no colon"}, "no colon"),
        (
            {"factory": "edgekd.shipped:shipped", "args": {"kind": "x"}},
            "returned PosixPath; it must return a torch.nn.Module",
        ),
        ({"args": {"input_shape": [1, 28, 28], "classes": 10, "depth": 4}}, "depth"),
        ({"args": {"input_shape": [1, 28, 28], "classes": 11}}, "model.safetensors does not fit model.json"),
        ({"edits": [{"edit": "pruning", "history": [["absent", True, [0]]]}]}, "do not fit the network"),
        ({"edits": [{"edit": "depth", "removed": ["absent"]}]}, "there is no 'absent'"),
        ({"edits": [{"edit": "pruning", "history": [["1", True, [0]]]}]}, "model.safetensors does not fit"),
    ],
)
def test_a_changed_description_is_refused(changes, message, tmp_path):
    models.save(tmp_path, described("mlp"), trained(described("mlp")).state_dict())
    edited(tmp_path, **changes)
    with pytest.raises(EdgekdError, match=message):
        models.load(tmp_path)


@pytest.mark.parametrize("damage", ["missing", "cut", "other", "empty"])
def test_damaged_weights_are_refused(damage, tmp_path):
    models.save(tmp_path, described("mlp"), trained(described("mlp")).state_dict())
    path = tmp_path / models.WEIGHTS
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    else:
        save_file({} if damage == "empty" else {"a": torch.zeros(2)}, path)
    with pytest.raises(StageError, match="cannot be read" if damage in ("missing", "cut") else "does not fit"):
        models.load(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_an_error_of_the_system_that_says_so(tmp_path):
    (tmp_path / models.WEIGHTS).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        models.save(tmp_path, described("mlp"), trained(described("mlp")).state_dict())
    assert caught.value.errno == errno.ENOSPC


def test_hooks_go_with_their_block_also_where_it_fails():
    layer, seen = nn.Linear(2, 2), []
    hook = layer.register_forward_hook(lambda *_: seen.append("ran"))
    with pytest.raises(RuntimeError, match="shapes"), models.hooked([hook]):  # noqa: PT012 # both belong to the block
        layer(torch.zeros(1, 2))
        layer(torch.zeros(1, 3))
    layer(torch.zeros(1, 2))
    assert seen == ["ran"]


def test_no_pickle_is_read_anywhere():
    """`torch.load` runs what a file says unless it is told not to; the other ways to unpickle are not used at all."""
    package = Path(models.__file__).parents[1]
    files = sorted(package.rglob("*.py"))
    assert len(files) > 50
    loads = 0
    for file in files:
        text = file.read_text()
        for call in re.findall(r"torch\.load\((?:[^()]|\([^()]*\))*\)", text):
            loads += 1
            assert "weights_only=True" in call, f"{file}: {call}"
        assert text.count("torch.load(") == len(re.findall(r"torch\.load\((?:[^()]|\([^()]*\))*\)", text)), file
        assert not re.search(
            r"pickle\.loads?\(|Unpickler|marshal\.|shelve|joblib|dill|torch\.jit\.load|allow_pickle=True", text
        ), file
        assert not re.search(r"from (pickle|torch) import .*\bloads?\b", text), file
    assert loads == 2
