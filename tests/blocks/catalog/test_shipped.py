"""The catalog that ships, its schema and its examples."""

from __future__ import annotations

import datetime
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from blocks.catalog.load import load_catalog, read_catalog
from blocks.catalog.match import quarantined
from blocks.catalog.models import WheelBuild
from blocks.catalog.schema import export_schema, schema_text

SHIPPED = Path(__file__).parents[3] / "deployments" / "catalog"
FILES = sorted([*SHIPPED.glob("*.yaml"), *SHIPPED.glob("examples/*.yaml")])


def test_it_loads_and_nothing_in_its_quarantine_had_expired_when_it_shipped() -> None:
    assert read_catalog(SHIPPED, today=datetime.date(2026, 12, 1)).warnings == ()


def test_the_embedded_profile_runs_every_suite_on_the_cpu() -> None:
    catalog = load_catalog(SHIPPED)
    embedded = catalog.profiles["embedded"]
    assert {(cell.environment, cell.suite) for cell in embedded.matrix} == {("cpu", name) for name in catalog.suites}
    assert next(cell.tier.sample for cell in embedded.matrix if cell.suite == "inductor") < 1
    assert all(cell.tier.sample == 1 for cell in catalog.profiles["full"].matrix)
    assert all(catalog.suites[cell.suite].exclusive == (cell.suite == "benchmark") for cell in embedded.matrix)


def test_a_build_pins_everything_exactly() -> None:
    for build in load_catalog(SHIPPED).builds.values():
        assert isinstance(build, WheelBuild)
        assert all("==" in requirement for requirement in build.requirements)


def test_the_known_failure_of_the_wheel_is_quarantined_and_its_neighbours_are_not() -> None:
    entries = load_catalog(SHIPPED).quarantine

    def kept(test: str, today: datetime.date = datetime.date(2026, 12, 1)) -> bool:
        found = quarantined(
            entries, suite="libtorch", environment="cpu", label=f"site/torch/test/quantized_test::{test}", today=today
        )  # fmt: skip
        return found is not None

    assert kept("TestQTensor.RoundingMode")
    assert not kept("TestQTensor.Item")
    assert not kept("TestQTensor.RoundingMode", datetime.date(2040, 1, 1))


def test_the_committed_schema_is_current() -> None:
    message = "run: python -m blocks.catalog.schema > deployments/catalog/schema.json"
    assert (SHIPPED / "schema.json").read_text() == schema_text(), message


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_editors_find_the_schema_and_agree_with_us(file: Path) -> None:
    text = file.read_text()
    relative = "../schema.json" if file.parent.name == "examples" else "./schema.json"
    assert text.splitlines()[0] == f"# yaml-language-server: $schema={relative}"
    document: dict[str, Any] = yaml.safe_load(text)
    for entry in document.get("quarantine", []):
        entry["expires"] = entry["expires"].isoformat()  # JSON has no dates
    jsonschema.validate(document, export_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**document, "suits": {}}, export_schema())


def test_the_examples_load_beside_the_shipped_files(tmp_path: Path) -> None:
    root = tmp_path / "catalog"
    shutil.copytree(SHIPPED, root)
    (root / "sources/pytorch/test").mkdir(parents=True)
    for example in (root / "examples").glob("*.yaml"):
        shutil.copy(example, root / example.name)
    assert {"accelerators", "pytorch"} <= set(load_catalog(root).profiles)
