"""The choices of the forms agree with the catalog that ships, and a request survives the ledger."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict

from blocks.catalog.load import default_root, load_catalog
from flows.request import Profile, Request, Suite, request_from_json


def test_the_choices_of_the_forms_are_what_the_catalog_has() -> None:
    catalog = load_catalog(default_root())
    assert {profile.value for profile in Profile} == set(catalog.profiles)
    offered = {cell.suite for profile in Profile for cell in catalog.profiles[profile.value].matrix}
    assert {suite.value for suite in Suite} == offered


def test_a_request_comes_back_from_the_ledger_as_it_was() -> None:
    request = Request(suites=("libtorch",), include=("a*", "b*"), sample=0.5, retry_alone=3)
    assert request_from_json(json.loads(json.dumps(asdict(request)))) == request


def test_the_command_line_s_parts_do_not_import_prefect() -> None:
    script = "import sys, flows.request, flows.server; sys.exit(bool({'prefect', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
