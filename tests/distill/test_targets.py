"""What is kept of a teacher: for each view the very answers that it would give, and nothing that is not its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import log_softmax, softmax

from edgekd import artifact, models
from edgekd import data as datasets
from edgekd.artifact import Artifact
from edgekd.distill import targets
from edgekd.distill.losses.response import kd
from edgekd.distill.targets import Reader, keep, restored, top
from edgekd.distill.teachers import Kept, Live
from edgekd.errors import StageError
from edgekd.models import Description
from edgekd.options import Augment, Data
from edgekd.stage import Inputs
from edgekd.stages.targets import Options
from edgekd.training.engine import accelerate
from edgekd.training.objective import Batch
from edgekd.training.views import views_of

SAMPLES = 120
DATA = Data(source="digits", validation=0.2, train_samples=150)
TEACHER = Description("edgekd.models.convnet:build", {"input_shape": [1, 8, 8], "classes": 10, "width": 4}, (1, 8, 8))
AUGMENT = Augment(crop=1, flip=True, contrast=0.3, views=3)
CPU = torch.device("cpu")


def teacher(folder: Path, seed: int = 3, scale: float = 40.0) -> Artifact:
    """Store a network with clear opinions."""
    torch.manual_seed(seed)
    model = models.create(TEACHER).train()
    with torch.no_grad():
        model[-1].weight *= scale
        model(torch.randn(64, 1, 8, 8))
    folder.mkdir()
    models.save(folder, TEACHER, model.state_dict())
    return Artifact(folder, "teacher", "", str(seed), {"validation": 0.5, "parameters": 1, "macs": 1})


def given(source: Artifact, augment: Augment = AUGMENT, *, data_seed: int = 0, **context: Any) -> Inputs:
    context = {"augment": augment.model_dump(mode="json"), "views": augment.views or 1, **context}
    return Inputs(
        artifacts={"teacher": source}, blocks={}, data=DATA, data_dir=None, task="classification", seed=0,
        data_seed=data_seed, compute="cpu", variant="", context=context,
    )  # fmt: skip


def kept(tmp_path: Path, inputs: Inputs, **options: Any) -> Artifact:
    folder = tmp_path / "targets"
    folder.mkdir()
    facts = keep(Options(**options), inputs, folder)
    return Artifact(folder, "targets", "", "", facts)


def view(number: int, samples: Tensor, augment: Augment = AUGMENT, seed: int = 0) -> Tensor:
    """Return what the student is shown of training samples."""
    inputs = datasets.of(given(Artifact(Path(), "", "", "", {}))).train.inputs
    made = views_of(inputs, augment, seed)
    shown = torch.from_numpy(inputs[samples.numpy()])
    return shown if made is None else made(shown, samples, number)


# ---- cached is live


def test_what_is_kept_of_a_view_is_what_the_teacher_says_to_that_view_and_to_no_other(tmp_path):
    source = teacher(tmp_path / "teacher")
    cached = Kept("teacher", kept(tmp_path, given(source)), CPU)
    live = Live("teacher", models.load(source.path), models.example((1, 8, 8)), [], accelerate("cpu", "fp32"))
    generator = torch.Generator().manual_seed(0)
    samples = torch.randperm(SAMPLES, generator=generator)[:40]
    student = torch.randn(40, 10, generator=generator)
    targets_of_no_use = torch.zeros(40, dtype=torch.int64)
    for number in range(3):
        batch = Batch(view(number, samples), targets_of_no_use, samples, view=number)
        said, read = live(batch).answers, cached(batch).answers
        torch.testing.assert_close(read, said, rtol=1e-3, atol=1e-3)  # half precision
        expected = kd(student, said)
        torch.testing.assert_close(kd(student, read), expected, rtol=1e-3, atol=1e-5)
        other = kd(student, cached(Batch(batch.inputs, batch.targets, samples, view=(number + 1) % 3)).answers)
        assert abs(float(other - expected)) > 100 * abs(float(kd(student, read) - expected))


def test_views_count_on_in_circles(tmp_path):
    reader = Reader(kept(tmp_path, given(teacher(tmp_path / "teacher"))), CPU)
    samples = torch.arange(5)
    torch.testing.assert_close(reader(samples, 4), reader(samples, 1), rtol=0, atol=0)
    assert not torch.equal(reader(samples, 0), reader(samples, 1))


def test_the_views_are_those_of_the_datas_seed(tmp_path):
    source = teacher(tmp_path / "teacher")
    reader = Reader(kept(tmp_path, given(source, data_seed=7)), CPU)
    samples = torch.arange(SAMPLES)
    model = models.load(source.path)
    with torch.no_grad():
        torch.testing.assert_close(reader(samples, 1), model(view(1, samples, seed=7)), rtol=1e-3, atol=2e-3)
        assert float((reader(samples, 1) - model(view(1, samples, seed=0))).abs().max()) > 0.5


def test_without_random_views_there_is_one_and_its_facts_say_what_it_is(tmp_path):
    source = teacher(tmp_path / "teacher")
    found = kept(tmp_path, given(source, Augment()))
    assert found.facts == {
        "views": 1, "samples": SAMPLES, "classes": 10, "top": None, "temperature": 1.0, "kept_mass": 1.0,
        "size_bytes": (found.path / "answers-0000.npy").stat().st_size,
    }  # fmt: skip
    stored = np.load(found.path / "answers-0000.npy", allow_pickle=False)
    assert (stored.dtype, stored.shape) == (np.float16, (SAMPLES, 10))
    with torch.no_grad():
        expected = models.load(source.path)(view(0, torch.arange(SAMPLES), Augment()))
    np.testing.assert_allclose(stored, expected.numpy(), rtol=1e-3, atol=1e-3)


# ---- the largest answers, and the rest


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("count", [1, 3, 9, 10, 50])
def test_what_is_restored_is_exact_where_it_was_kept_and_in_the_mass_of_the_rest(temperature, count):
    answers = torch.randn(6, 10, generator=torch.Generator().manual_seed(1)) * 3
    found = top(answers, count, temperature)
    again = restored(found, 10, temperature)
    given, returned = softmax(answers / temperature, -1), softmax(again / temperature, -1)
    classes = found["classes"].long()
    torch.testing.assert_close(returned.gather(1, classes), given.gather(1, classes))
    torch.testing.assert_close(again.gather(1, classes), answers.gather(1, classes))
    rest = returned.scatter(1, classes, 0).sum(1)
    torch.testing.assert_close(rest, given.scatter(1, classes, 0).sum(1), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found["rest"].exp(), rest, rtol=1e-4, atol=1e-6)
    assert bool(torch.isfinite(again).all())
    others = again.masked_fill(torch.zeros_like(again).scatter(1, classes, 1).bool(), torch.nan)
    assert float(torch.nan_to_num(others - others.nanmean(1, keepdim=True)).abs().max()) < 1e-5  # spread evenly


def test_the_loss_of_what_is_restored_is_that_of_answers_whose_rest_is_even():
    answers = torch.randn(6, 10, generator=torch.Generator().manual_seed(1)) * 3
    student = torch.randn(6, 10, generator=torch.Generator().manual_seed(2))
    found = top(answers, 4, 2.0)
    classes = found["classes"].long()
    p = softmax(answers / 2, -1)
    even = p.scatter(1, classes, 0).sum(1, keepdim=True).expand(-1, 10) / 6
    even = even.scatter(1, classes, p.gather(1, classes))
    expected = 4 * (even * (even.log() - log_softmax(student / 2, -1))).sum(1).mean()
    torch.testing.assert_close(kd(student, restored(found, 10, 2.0), temperature=2.0), expected)


def test_the_largest_answers_are_read_as_they_were_kept(tmp_path):
    source = teacher(tmp_path / "teacher")
    found = kept(tmp_path, given(source, temperature=1.0), top=7)
    assert sorted(path.name for path in found.path.glob("*-0001.npy")) == [
        f"{name}-0001.npy" for name in ("classes", "rest", "total", "values")
    ]
    assert 0.95 <= found.facts["kept_mass"] < 1
    samples = torch.arange(SAMPLES)
    with torch.no_grad():
        answers = models.load(source.path)(view(1, samples))
    read = Reader(found, CPU)(samples, 1)
    torch.testing.assert_close(read, restored(top(answers, 7, 1.0), 10, 1.0), rtol=1e-3, atol=5e-3)
    masses = [
        float(softmax(models.load(source.path)(view(number, samples)).detach(), -1).topk(7).values.sum(1).mean())
        for number in range(3)
    ]
    assert found.facts["kept_mass"] == pytest.approx(np.mean(masses), abs=1e-5)


def test_too_little_of_the_probability_is_refused(tmp_path):
    source = teacher(tmp_path / "teacher")
    with pytest.raises(StageError) as error:
        kept(tmp_path, given(source, temperature=100.0), top=7)
    told = str(error.value)
    assert told.startswith("targets.top: the 7 largest of 10 answers hold 0.7")
    assert "at temperature 100; at least 0.95 is needed" in told


# ---- files


def test_what_is_large_is_read_from_the_disk_and_is_the_same(tmp_path, monkeypatch):
    found = kept(tmp_path, given(teacher(tmp_path / "teacher"), temperature=1.0), top=8)
    samples = torch.tensor([7, 3, 3, 119])
    resident = Reader(found, CPU)
    monkeypatch.setattr(targets, "RESIDENT_BYTES", found.facts["size_bytes"] - 1)
    mapped = Reader(found, CPU)
    assert all(isinstance(array, np.memmap) for view in mapped._views for array in view.values())
    assert all(isinstance(array, Tensor) for view in resident._views for array in view.values())
    for number in range(3):
        torch.testing.assert_close(mapped(samples, number), resident(samples, number), rtol=0, atol=0)


def test_a_damaged_file_is_found_and_kept_anew(tmp_path):
    source = teacher(tmp_path / "teacher")
    said: list[str] = []
    store = artifact.open_store(tmp_path / "store", said.append)
    options = Options()

    def build() -> tuple[Artifact, bool]:
        return artifact.build(store, "targets", {"a": 1}, lambda out: keep(options, given(source), out))

    found, _ = build()
    (file,) = found.path.glob("answers-0001.npy")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert artifact.check(found.path) == "answers-0001.npy does not match its checksum"
    again, cached = build()
    assert not cached
    assert again.digest == found.digest
    assert any("set aside" in text for text in said)


@pytest.mark.parametrize("scale", [1e6, float("nan"), float("inf")])
def test_answers_that_16_bits_cannot_hold(tmp_path, scale):
    source = teacher(tmp_path / "teacher", scale=scale)
    with pytest.raises(StageError, match=r"targets: the teacher answers .*, which 16 bits cannot hold"):
        kept(tmp_path, given(source))


def test_a_disk_that_has_no_room_for_them_is_told_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(targets.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 3 * SAMPLES * 20 - 1}))
    with pytest.raises(StageError, match=r"3 views of 120 samples, .* are free; set augment.views lower"):
        kept(tmp_path, given(teacher(tmp_path / "teacher")))
    assert not list((tmp_path / "targets").iterdir())
