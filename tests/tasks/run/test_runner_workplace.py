"""What of a unit's variables may be written down."""

from __future__ import annotations

import pytest

from tasks.run.runner.workplace import _on_record

SECRETS = [
    "HF_TOKEN", "GITHUB_PAT", "SSH_KEY", "SIGNING_KEY", "HF_HUB_KEY", "KEY", "PASSPHRASE", "GPG_PASSPHRASE", "DB_PASS",
    "NPM_AUTH", "COOKIE", "SESSION_COOKIE_2", "DSN", "SENTRY_DSN", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "apikey",
    "npm_auth",
]  # fmt: skip
HARMLESS = [
    "PATH", "PYTHONPATH", "PATTERN", "KEYBOARD", "HOTKEYS", "PASSES", "AUTHOR", "COMPASS", "CUDA_VISIBLE_DEVICES",
]  # fmt: skip


@pytest.mark.parametrize("name", SECRETS)
def test_what_sounds_like_a_secret_is_not_on_record(name: str) -> None:
    assert _on_record({name: "hunter2", "ASKED": "1"}) == {"ASKED": "1"}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_only_looks_a_bit_like_it_is(name: str) -> None:
    assert _on_record({name: "1"}) == {name: "1"}


@pytest.mark.parametrize(
    "value",
    ["postgres://user:pw@host/db", "https://:pw@host", "https://user:@host", "see redis://u:p%40ss@h:6379 and more"],
)
def test_a_value_with_a_password_in_a_url_is_not_on_record(value: str) -> None:
    assert _on_record({"WHERE": value}) == {}


@pytest.mark.parametrize(
    "value", ["http://host:8080/a@b", "ssh://git@host/x", "https://host", "a:b@c", "tcp://h:1 x@y"]
)
def test_another_url_is(value: str) -> None:
    assert _on_record({"WHERE": value}) == {"WHERE": value}
