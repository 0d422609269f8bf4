"""PyTorch's test-matrix, as its workflows write it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from blocks.catalog.load import load_catalog
from blocks.catalog.test_matrix import import_test_matrix
from blocks.errors import CatalogError

PULL = """
{ include: [
  { config: "default", shard: 1, num_shards: 3, runner: "${{ needs.get-label-type.outputs.label-type }}linux.2xlarge" },
  { config: "default", shard: 2, num_shards: 3, runner: "${{ needs.get-label-type.outputs.label-type }}linux.2xlarge" },
  { config: "default", shard: 3, num_shards: 3, runner: "linux.4xlarge", owners: ["module:slowgradcheck"] },
  { config: "docs_test", shard: 1, num_shards: 1, runner: "linux.2xlarge" },
  { config: "numpy_2_x", shard: 1, num_shards: 1, runner: "linux.aws.a100", unstable: "unstable" },
]}
"""
JOB = "linux-jammy-cuda13.0-py3.10-gcc11"


def test_configs_become_suites_and_their_shards_are_fixed_shards() -> None:
    made = import_test_matrix(PULL, job=JOB)["catalog"]
    (profile,) = made["profiles"].values()
    assert [(cell["suite"], cell["shards"]) for cell in profile["matrix"]] == [
        ("pytorch-default", 3),
        ("pytorch-docs_test", 1),
        ("pytorch-numpy_2_x-unstable", 1),
    ]
    assert made["suites"]["pytorch-default"]["env"] == {
        "BUILD_ENVIRONMENT": JOB,
        "TEST_CONFIG": "default",
        "SHARD_NUMBER": "{shard}",
        "NUM_TEST_SHARDS": "{shards}",
    }
    (environment,) = made["environments"].values()
    assert environment == {"build": "pytorch", "accelerator": "cuda", "os": "linux", "python": "cp310"}


def test_what_it_makes_is_a_catalog(tmp_path: Path) -> None:
    made = import_test_matrix(PULL, job=JOB)["catalog"]
    (tmp_path / "sources/pytorch").mkdir(parents=True)
    (tmp_path / "imported.yaml").write_text(yaml.safe_dump(made))
    (tmp_path / "rest.yaml").write_text(
        "builds:\n  pytorch: {kind: wheel, requirements: [torch]}\npools:\n  local: {kind: local}\n"
    )
    assert JOB in load_catalog(tmp_path).profiles


def test_what_has_no_word_is_kept_and_told() -> None:
    made = import_test_matrix(PULL, job=JOB)
    assert {"config": "default", "shard": 3, "keys": {"owners": ["module:slowgradcheck"]}} in made["kept"]
    assert {"config": "numpy_2_x", "shard": 1, "keys": {"unstable": "unstable"}} in made["kept"]
    assert any("`owners`" in note for note in made["notes"])
    assert any("linux.aws.a100" in note for note in made["notes"])


def test_switches_make_suites_of_their_own() -> None:
    rows = [
        {"config": "default", "shard": 1, "num_shards": 1, "runner": "a"},
        {"config": "default", "shard": 1, "num_shards": 1, "runner": "a", "mem_leak_check": "mem_leak_check"},
    ]
    suites = import_test_matrix({"include": rows}, job="linux-py3.14t")["catalog"]["suites"]
    assert set(suites) == {"pytorch-default", "pytorch-default-mem_leak_check"}
    assert suites["pytorch-default-mem_leak_check"]["env"]["PYTORCH_TEST_CUDA_MEM_LEAK_CHECK"] == "1"


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("{include: [{config: a, shard: 1, num_shards: 2, runner: r}]}", "should be 1 to 2"),
        ("{include: [{config: a, shard: 3, num_shards: 2, runner: r}]}", "shard 3 of 2"),
        ("{include: [{config: a, shard: x, num_shards: 2, runner: r}]}", "Entry 1"),
        ("{include: [{config: a}]}", "Entry 1"),
        ("{include: [7]}", "Entry 1"),
        ("{include: []}", "no test-matrix"),
        ("[1, 2]", "no test-matrix"),
        ("{include: [", "cannot be read"),
    ],
)
def test_a_matrix_that_would_lose_tests_is_refused(document: str, expected: str) -> None:
    with pytest.raises(CatalogError, match=expected):
        import_test_matrix(document, job=JOB)
