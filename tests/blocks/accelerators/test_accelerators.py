"""All accelerator classes keep the same promises."""

from __future__ import annotations

import pytest

from blocks.accelerators import ACCELERATORS, accelerator, for_slot
from blocks.catalog.models import EnvironmentSpec
from blocks.errors import CatalogError


def test_the_catalog_may_name_exactly_these() -> None:
    schema = EnvironmentSpec.model_json_schema()["properties"]["accelerator"]["enum"]
    assert set(schema) == set(ACCELERATORS)


@pytest.mark.parametrize("name", sorted(ACCELERATORS))
class TestEveryAccelerator:
    def test_is_registered_under_its_own_name_and_names_a_torch_device(self, name: str) -> None:
        assert accelerator(name).name == name
        assert accelerator(name).torch_device in {"cpu", "cuda", "xpu", "hpu", "npu", "xla", "mps"}

    def test_its_device_files_are_paths_below_dev(self, name: str) -> None:
        assert all(node.startswith("/dev/") for node in for_slot(name, 3)["nodes"])
        assert all("{" not in node for node in for_slot(name, 3)["nodes"])

    def test_a_slot_sees_its_own_device_only(self, name: str) -> None:
        first, second = for_slot(name, 0), for_slot(name, 1)
        if name == "cpu":
            assert first["devices"] == []
            assert first["env"]["CUDA_VISIBLE_DEVICES"] == ""
            return
        assert (first["devices"], second["devices"]) == ([0], [1])
        visible = [key for key, value in second["env"].items() if value == "1"]
        assert visible or name == "mps"
        assert all(first["env"][key] == "0" for key in visible)

    def test_a_slot_may_have_several(self, name: str) -> None:
        made = for_slot(name, 1, devices=2)
        assert made["devices"] == ([] if name == "cpu" else [2, 3])
        assert "2,3" in made["env"].values() or name in ("cpu", "mps")


def test_rocm_is_cuda_to_pytorch_and_told_apart_by_its_driver() -> None:
    assert accelerator("rocm").torch_device == "cuda"
    assert not set(accelerator("rocm").told_by) & set(accelerator("cuda").told_by)


def test_an_unknown_class_is_said() -> None:
    with pytest.raises(CatalogError, match="no accelerator class `gpu`"):
        accelerator("gpu")
