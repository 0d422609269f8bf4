"""What a machine is: accelerators as their tools list them, and how a unit is shown its devices.

The samples are written in the shape of real outputs; each names the capture that it follows.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tasks.run.runner import accelerators, fingerprint

# After nvidia-smi -L of an H100 and of one with MIG (utkuozdemir/nvidia_gpu_exporter, internal/captures, MIT).
NVIDIA = """GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-00000000-0000-0000-0000-000000000000)
  MIG 3g.40gb     Device  0: (UUID: MIG-00000000-0000-0000-0000-000000000000)
  MIG 1g.10gb     Device  1: (UUID: MIG-00000002-0000-0000-0000-000000000002)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-00000000-0000-0000-0000-000000000001)
"""
# After rocm-smi --json of an MI100 (influxdata/telegraf, plugins/inputs/amd_rocm_smi/testdata, MIT).
ROCM = json.dumps(
    {
        "card0": {"Device ID": "0x738c", "Card series": "Instinct MI100"},
        "card10": {"Device ID": "0x738c"},
        "card1": {"Device ID": "0x738c"},
        "system": {"Driver version": "6.3.6"},
    }
)
# After amd-smi list (ROCm/amdsmi, CHANGELOG.md, MIT).
AMD = """GPU: 0
    BDF: 0000:23:00.0
    UUID: <redacted>
    NODE_ID: 1

GPU: 1
    BDF: 0000:26:00.0
"""
# After xpu-smi discovery of six Max 1550 (argonne-lcf/user-guides) and of an Arc B580 (intel/xpumanager, README.md).
XPU = """+-----------+--------------------------------------------------------------------------------------+
| Device ID | Device Information                                                                   |
+-----------+--------------------------------------------------------------------------------------+
| 0         | Device Name: Intel(R) Data Center GPU Max 1550                                       |
|           | Vendor Name: Intel(R) Corporation                                                    |
|           | PCI BDF Address: 0000:18:00.0                                                        |
+-----------+--------------------------------------------------------------------------------------+
| 1         | Device Type: GPU                                                                     |
|           | Device Name: Intel(R) Arc(TM) B580 Graphics                                          |
+-----------+--------------------------------------------------------------------------------------+
"""
# After hl-smi of a Gaudi 2 (instructlab/instructlab, docs/habana-gaudi.md, Apache-2.0).
HPU = """| HL-SMI Version:                              hl-1.15.1-fw-49.0.0.0          |
| AIP  Name        Persistence-M| Bus-Id        Disp.A | Volatile Uncorr. ECC |
|===============================+======================+======================|
|   0  HL-225              N/A  | 0000:19:00.0     N/A |                   0  |
| N/A   29C   N/A    93W / 600W |    768MiB / 98304MiB |     0%           N/A |
|   1  HL-225              N/A  | 0000:b3:00.0     N/A |                   0  |
| Compute Processes:                                               AIP Memory |
|   0        N/A   N/A    N/A                                      N/A        |
"""
# In the shape that the Ascend documentation gives for `npu-smi info -l`; no capture of it was found.
NPU = """\tTotal Count                    : 2

\tNPU ID                         : 3
\tProduct Name                   : IT21
\tChip Count                     : 1

\tNPU ID                         : 5
\tChip Count                     : 2
"""


@pytest.mark.parametrize(
    ("parse", "text", "expected"),
    [
        (accelerators.parse_nvidia_smi_list, NVIDIA, [(0, "NVIDIA H100 80GB HBM3"), (1, "NVIDIA H100 80GB HBM3")]),
        (accelerators.parse_rocm_smi_json, ROCM, [(0, "Instinct MI100"), (1, "0x738c"), (10, "0x738c")]),
        (accelerators.parse_amd_smi_list, AMD, [(0, "AMD GPU"), (1, "AMD GPU")]),
        (
            accelerators.parse_xpu_smi_discovery,
            XPU,
            [(0, "Intel(R) Data Center GPU Max 1550"), (1, "Intel(R) Arc(TM) B580 Graphics")],
        ),
        (accelerators.parse_hl_smi, HPU, [(0, "HL-225"), (1, "HL-225")]),
        (accelerators.parse_npu_smi_list, NPU, [(0, "Ascend NPU"), (1, "Ascend NPU"), (2, "Ascend NPU")]),
    ],
)
def test_devices_are_found_in_what_their_tool_prints(parse: Any, text: str, expected: list[tuple[int, str]]) -> None:
    assert [(device["index"], device["name"]) for device in parse(text)] == expected
    assert parse("") == []
    assert parse("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n") == []


def test_instances_are_told_beside_their_card() -> None:
    first, second = accelerators.parse_nvidia_smi_list(NVIDIA)
    assert [part["profile"] for part in first["parts"]] == ["3g.40gb", "1g.10gb"]
    assert "parts" not in second


def test_tpu_chips_are_found_by_their_device_files() -> None:
    paths = ["/dev/accel10", "/dev/accel0", "/dev/accel_control0"]
    assert [device["index"] for device in accelerators.parse_accel_nodes(paths)] == [0, 10]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cpu", {}),
        ("unheard-of", {}),
        ("cuda", {"CUDA_VISIBLE_DEVICES": "2,3"}),
        # ROCr hides the rest first; HIP then counts what is left from zero.
        ("rocm", {"ROCR_VISIBLE_DEVICES": "2,3", "HIP_VISIBLE_DEVICES": "0,1"}),
        ("xpu", {"ZE_AFFINITY_MASK": "2,3"}),
        ("hpu", {"HABANA_VISIBLE_MODULES": "2,3"}),
        ("npu", {"ASCEND_RT_VISIBLE_DEVICES": "2,3"}),
        ("tpu", {"TPU_VISIBLE_CHIPS": "2,3"}),
    ],
)
def test_a_process_is_shown_its_devices_and_no_other(name: str, expected: dict[str, str]) -> None:
    assert accelerators.visibility(name, [2, 3]) == expected


def test_every_kind_answers_on_a_host_that_has_none_of_it() -> None:
    for kind in accelerators.KINDS.values():
        assert isinstance(kind.detect(), list)
        assert isinstance(accelerators.nodes(kind.name, [0]), list)
    assert accelerators.found(4)[0] == {"class": "cpu", "count": 4}


# After /proc/cpuinfo of a Sapphire Rapids and of a Neoverse V1 machine, cut to what is read.
X86 = "vendor_id\t: GenuineIntel\nmodel name\t: Xeon\nflags\t\t: fpu avx2 avx512f amx_tile amx_bf16 zzz\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd sve bf16 i8mm\nCPU implementer\t: 0x41\n"


def test_instruction_sets_are_told_from_either_kind_of_cpuinfo() -> None:
    assert fingerprint.isa(X86) == ["avx2", "avx512f", "amx_tile", "amx_bf16"]
    assert fingerprint.isa(ARM) == ["asimd", "bf16", "i8mm", "sve"]
    assert fingerprint.isa("") == []
