from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_findings(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found in files is kept in a folder of the test."""
    monkeypatch.setenv("EDGEKD_DATA", str(tmp_path_factory.mktemp("data")))


@pytest.fixture
def index(_own_findings: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder where findings are kept."""
    from edgekd.data import data_folder

    return data_folder() / ".index"
