"""What the catalog may say: builds, environments, suites, the matrix, pools and the policy, as pydantic models.

Nothing in builds, suites or matrix names a cloud: they say what is needed, pools say what there is. The loader
(`load.py`) reads the YAML files into one `Catalog` and turns every mistake into file, line and what would be right.
"""

from __future__ import annotations

import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]


class Strict(BaseModel):
    """Unknown keys are mistakes, not extensions."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class WheelBuild(Strict):
    """A published wheel with what it needs, made into a content-addressed wheelhouse."""

    kind: Literal["wheel"]
    requirements: list[str] = Field(description="pip requirements, exact pins for what is under test")
    indexes: list[str] = Field(
        default=["default"],
        description="package indexes in order of preference; `default` is the one that pip is configured for",
    )
    consumer: str | None = Field(
        default=None, description="folder of C++ sources that are compiled and linked against the wheel"
    )
    toolchain: list[str] = Field(default=[], description="programs that tests of this build need (`c++`)")


class SourceBuild(Strict):
    """A ref of a repository, built by a command."""

    kind: Literal["source"]
    repository: str = Field(description="what `git clone` takes")
    ref: str = Field(description="branch, tag or commit")
    command: list[str] = Field(description="run in the checkout; `{python}` and `{out}` are replaced")
    outputs: list[str] = Field(description="globs in the checkout; wheels (.whl) and trees (.tar.gz)")
    requirements: list[str] = Field(default=[], description="pip requirements beside the outputs, at run time")
    build_requirements: list[str] = Field(default=[], description="pip requirements of the build itself")
    indexes: list[str] = ["default"]
    env: dict[str, str] = {}
    toolchain: list[str] = []
    timeout_minutes: float = 240


AnyBuild = Annotated[WheelBuild | SourceBuild, Field(discriminator="kind")]


class EnvironmentSpec(Strict):
    """What units are planned against."""

    build: Name
    accelerator: Literal["cpu", "cuda", "rocm", "xpu", "hpu", "npu", "tpu", "mps"] = "cpu"
    os: str = "linux"
    python: str = Field(default="", description="interpreter tag (`cp312`); by default the one that the build is for")
    config: str = "default"
    env: dict[str, str] = {}


class SuiteSpec(Strict):
    """A set of tests or benchmarks and the way to discover and run them."""

    kind: Literal["gtest", "pytest", "benchmark", "command"]
    sources: str | None = Field(
        default=None, description="folder that travels with the suite (relative to the catalog)"
    )
    files: list[str] = Field(default=[], description="gtest: globs in the build; pytest: globs in the sources")
    models: list[str] = Field(default=[], description="benchmark: models")
    script: str | None = None
    commands: dict[str, list[str]] = Field(default={}, description="command: name -> argv")
    args: list[str] = []
    env: dict[str, str] = {}
    left_out: dict[str, str] = Field(default={}, description="file or glob -> why it is no test")
    cpus: int = 1
    devices: int = 0
    memory_gib: float = 4
    exclusive: bool = Field(default=False, description="needs the machine alone (benchmarks do)")
    timeout_minutes: float = 30
    test_timeout_seconds: float = 300
    target_seconds: float = Field(default=60, description="units estimated longer than this are split")
    default_seconds_per_test: float = 0.05
    start_seconds: float = Field(default=0.2, description="what a process costs before its first test")
    retry_alone: int = Field(default=50, description="how many failed or crashed tests of a unit are tried again alone")
    times: str | None = Field(default=None, description="a test-times file (PyTorch's format), relative to the catalog")
    class_times: str | None = Field(
        default=None,
        description="a test-class-times file (PyTorch's format), relative to the catalog; `Class.name` may stand for a "
        "class. It only says where a long file is best cut",
    )
    sample_by: str | None = Field(
        default=None,
        description="regular expression with one group, searched in a test's name: tests with the same group are "
        "sampled together; without a match the whole name counts",
    )


class Tier(Strict):
    """A share of a suite: `sample` of its tests, chosen by a hash of the name, always the same ones."""

    sample: float = Field(default=1.0, gt=0, le=1)
    args: list[str] = []


class Cell(Strict):
    """One environment x one suite of the matrix, with filters."""

    environment: Name
    suite: Name
    include: list[str] = Field(default=[], description="only tests that match one of these globs")
    exclude: list[str] = []
    tier: Tier = Tier()
    shards: int | None = Field(default=None, ge=1, description="fixed shards, for suites that demand them")
    note: str = Field(default="", description="for people, such as the runner labels that an import found")


class PoolSpec(Strict):
    """A source of machines. `local` is the machine that the orchestrator runs on."""

    kind: Literal["local", "ssh", "aws", "gcp", "azure", "work_pool"]
    vendor: Name = "foundation"
    slots: int | None = Field(default=None, description="lanes of work at once; by default one per core or device")
    threads_per_slot: int | None = None
    sandbox: Literal["auto", "bubblewrap", "none"] = "auto"


class Quarantined(Strict):
    """A known failure: it runs, is recorded, and does not gate until the entry expires."""

    suite: Name
    test: str = Field(description="glob over `file::Class.name`")
    environments: list[str] = ["*"]
    reason: str
    link: str = ""
    evidence: str = ""
    owner: str
    expires: datetime.date


class Profile(Strict):
    """What one occasion runs: a selection of the matrix.

    With `extends`, everything of the other profile holds, except what this one says itself: its cells are added, and
    a cell for the same environment and suite takes the inherited one's place.
    """

    extends: Name | None = Field(default=None, description="another profile, whose cells and settings are taken over")
    matrix: list[Cell] = []
    pools: list[Name] = []
    lease_target_seconds: float = 30
    description: str = ""


class Catalog(Strict):
    """Everything, checked against itself."""

    builds: dict[Name, AnyBuild] = {}
    environments: dict[Name, EnvironmentSpec] = {}
    suites: dict[Name, SuiteSpec] = {}
    pools: dict[Name, PoolSpec] = {}
    profiles: dict[Name, Profile] = {}
    quarantine: list[Quarantined] = []
