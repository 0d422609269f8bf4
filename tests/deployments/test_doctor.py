"""The doctor: a broken machine is what it is for, so nothing that is broken ends it."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployments import doctor
from tasks.run.runner.sandbox import probe


def test_a_state_folder_that_cannot_be_looked_at_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A name too long is refused to everybody; a folder of somebody else's would be open to root.
    monkeypatch.setenv("COMMONFLEET_HOME", str(tmp_path / ("n" * 300)))

    found = {finding.name: finding for finding in doctor.findings()}

    for name in ("state", "disk", "ledger"):
        assert found[name].level == "bad"
        assert "COMMONFLEET_HOME" in found[name].do
    assert "cannot be looked at" in found["disk"].what
    assert found["packages"].level == "good"


def test_a_check_that_breaks_is_a_finding_of_its_name() -> None:
    def torch_here() -> doctor.Finding:
        raise RuntimeError("the reason")

    found = doctor.guarded(torch_here)

    assert (found.name, found.level) == ("torch", "bad")
    assert "the reason" in found.what


def test_the_sandbox_is_judged_as_the_runner_judges_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # the runner does not look there
    told, found = probe(), doctor.sandbox()

    assert found.level == ("good" if told.kind == "bubblewrap" else "note")
    assert (told.version or told.why) in found.what
