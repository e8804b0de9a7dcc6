import functools
import gzip
import hashlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekd import data
from edgekd.data.fashion_mnist import FAMILY as FASHION
from edgekd.data.loading import family, idx
from edgekd.data.mnist import FAMILY as MNIST
from edgekd.errors import UsageError

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data"
RNG = np.random.default_rng(3)
ARRAYS = {
    "x_train": RNG.integers(0, 256, (30, 28, 28), np.uint8),
    "y_train": np.arange(30, dtype=np.uint8) % 3,
    "x_test": RNG.integers(0, 256, (9, 28, 28), np.uint8),
    "y_test": np.arange(9, dtype=np.uint8) % 3,
}
IDX = {key: idx.header(array) + array.tobytes() for key, array in ARRAYS.items()}


def silent(done: int, total: int, text: str) -> None: ...


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder that is served over HTTP on this machine, and its address."""
    folder = tmp_path / "mirror"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def small(*mirrors: str) -> family.Family:
    """Return a member of the family with little content of its own."""
    digests = {key: hashlib.sha256(content).hexdigest() for key, content in IDX.items()}
    return family.Family("small-mnist", "SmallMNIST", digests, mirrors, 0.5, 0.25, ("a", "b", "c"))


def write(folder: Path, *, zipped: bool = False, dotted: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for key, content in IDX.items():
        name = family.FILES[key].replace("-idx", ".idx") if dotted else family.FILES[key]
        (folder / f"{name}{'.gz' if zipped else ''}").write_bytes(gzip.compress(content) if zipped else content)


@pytest.mark.parametrize("place", [".", "small-mnist", "small_mnist", "SmallMNIST/raw", "small-mnist/raw"])
@pytest.mark.parametrize("form", ["idx", "gz", "dotted", "npz"])
def test_every_form_in_every_place_gives_the_same_arrays(tmp_path: Path, place: str, form: str) -> None:
    if form == "npz":
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        np.savez_compressed(tmp_path / place / "small-mnist.npz", **ARRAYS)
    else:
        write(tmp_path / place, zipped=form == "gz", dotted=form == "dotted")
    assert family.describe(small(), tmp_path) == f"small-mnist in {tmp_path / place}"
    source = family.load(small(), tmp_path, silent)
    expected = (ARRAYS["x_test"][:, None] / 255 - 0.5) / 0.25
    np.testing.assert_allclose(source.test.inputs, expected, rtol=1e-5, atol=1e-6)
    assert source.test.inputs.dtype == np.float32
    np.testing.assert_array_equal(source.train.targets, ARRAYS["y_train"])
    assert source.preprocessing["mean"] == 0.5


def test_other_content_under_the_official_names_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    changed = bytearray(IDX["x_test"])
    changed[100] ^= 1
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(bytes(changed))
    with pytest.raises(
        UsageError, match=r"t10k-images-idx3-ubyte is not the official small-mnist \(uint8 \(9, 28, 28\)"
    ):
        family.load(small(), tmp_path, silent)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(IDX["x_train"][:-5])
    with pytest.raises(
        UsageError, match=r"train-images-idx3-ubyte: is truncated: .* expected 23520 bytes .* found 23515"
    ):
        family.load(small(), tmp_path, silent)


def test_absent_files_are_downloaded_from_the_first_mirror_that_has_them(
    tmp_path: Path, mirror: tuple[Path, str]
) -> None:
    folder, url = mirror
    write(folder, zipped=True)
    told: list[tuple[int, int]] = []
    wanted = small(f"{url}nothing-here/", url)
    assert family.describe(wanted, tmp_path).startswith(
        f"small-mnist will be downloaded to {tmp_path / 'small-mnist'} "
    )
    source = family.load(wanted, tmp_path, lambda done, total, text: told.append((done, total)))
    np.testing.assert_array_equal(source.test.targets, ARRAYS["y_test"])
    assert told == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    assert sorted(path.name for path in (tmp_path / "small-mnist").iterdir()) == sorted(
        f"{name}.gz" for name in family.FILES.values()
    )
    for path in folder.iterdir():
        path.unlink()
    family.load(wanted, tmp_path, silent)  # needs no mirror any more


def test_an_interrupted_download_goes_on(tmp_path: Path, mirror: tuple[Path, str]) -> None:
    folder, url = mirror
    write(folder, zipped=True)
    write(tmp_path / "small-mnist")
    (tmp_path / "small-mnist" / "t10k-labels-idx1-ubyte").unlink()
    for name in ("train-images", "train-labels", "t10k-images"):
        next(folder.glob(f"{name}*")).unlink()
    assert len(family.load(small(url), tmp_path, silent).test) == 9


def test_a_mirror_with_other_content_leaves_nothing(tmp_path: Path, mirror: tuple[Path, str]) -> None:
    folder, url = mirror
    write(folder, zipped=True)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"something else"))
    with pytest.raises(UsageError, match=r"train-images-idx3-ubyte.gz: has other content \(sha256"):
        family.load(small(url), tmp_path / "data", silent)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"not even gzip")
    with pytest.raises(UsageError, match="Not a gzipped file"):
        family.load(small(url), tmp_path / "data", silent)
    assert list((tmp_path / "data").rglob("*.gz*")) == []


def test_absent_and_no_network_says_which_files_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        family.load(small("http://127.0.0.1:9/"), tmp_path, silent)
    message = str(caught.value)
    assert f"small-mnist is not in {tmp_path} and could not be downloaded" in message
    assert f"Put these files into {tmp_path / 'small-mnist'}:" in message
    for name in (*family.FILES.values(), "small-mnist.npz", "x_train, y_train, x_test, y_test", "EDGEKD_DATA"):
        assert name in message
    assert len(message.splitlines()) < 10


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="could not be downloaded"):
        family.load(small("http://127.0.0.1:9/"), tmp_path / "file", silent)


@pytest.mark.parametrize(("member", "folder"), [(MNIST, "mnist"), (FASHION, "fashion-mnist")])
def test_the_real_data(member: family.Family, folder: str) -> None:
    path = REAL / folder / f"{folder}.npz"
    if not path.is_file():
        pytest.skip(f"real data are not at {path}")
    read = data.load(member.name, validation=5000, test_samples=1000, data_dir=REAL)
    assert read.name == folder
    assert (len(read.train), len(read.validation), len(read.test)) == (55000, 5000, 1000)
    assert read.train.inputs.shape[1:] == (1, 28, 28)
    assert len(read.classes) == 10
    assert abs(read.train.inputs.mean()) < 2e-3
    assert abs(read.train.inputs.std() - 1) < 2e-3
    with np.load(path) as official:
        share = np.bincount(official["y_train"]) / 60000
        pixel = (official["x_train"][0, 14, 14] / 255 - member.mean) / member.std
    np.testing.assert_allclose(np.bincount(read.validation.targets) / 5000, share, atol=1 / 5000)
    whole = family.load(member, REAL, silent)
    assert whole.train.inputs[0, 0, 14, 14] == pytest.approx(pixel, rel=1e-5)
    assert data.load(member.name, validation=5000, test_samples=1000, data_dir=REAL) is read
    other = replace(member, sha256={**member.sha256, "y_test": "0" * 64})
    with pytest.raises(UsageError, match="y_test is not the official"):
        family.load(other, REAL, silent)
