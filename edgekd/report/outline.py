"""What run.json must look like.

Every field that a report is made of has its kind, so that a damaged or hostile file is one clear error. What only one
part of a report reads (a device's profile, facts of a stage) is left to that part.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from edgekd.report.schema import Count, Digest, Name, Open


class Failure(Open):
    """Why a device gave no measurement."""

    kind: str
    message: str


class Model(Open):
    """A file that was measured."""

    file: str | None = None
    size_bytes: Count | None = None
    sha256: Digest | None = None


class Device(Open):
    """What a run says of a device, besides its measurement."""

    error: Failure | None = None
    profile: dict[str, Any] | None = None
    scheme: dict[str, Any] | None = None
    models: dict[Name, Model] | None = None
    refused: dict[Name, str] | None = None
    builds: tuple[str, ...] | None = None
    in_place_of: str | None = None


class Variant(Open):
    """A network of the run."""

    role: str | None = None
    parameters: Count | None = None
    macs: Count | None = None


class Stage(Open):
    """A step of the run, and what is known of it."""

    name: str
    artifact: str | None = None
    cached: bool | None = None
    seconds: float | None = None
    facts: dict[str, Any] | None = None


class Provenance(Open):
    """Where the figures come from."""

    data: dict[str, Any] | None = None
    command: tuple[str, ...] | None = None
    versions: dict[str, str] | None = None


class Outline(Open):
    """The content of run.json."""

    edgekd: str
    recipe: str | None
    run_id: str
    kind: str
    task: str
    inputs: str
    reference: str | None
    gates: dict[str, bool | Annotated[float, Field(ge=-1e15, le=1e15)] | None] | None = None
    variants: dict[Name, Variant]
    devices: dict[Name, Device]
    stages: tuple[Stage, ...]
    provenance: Provenance
