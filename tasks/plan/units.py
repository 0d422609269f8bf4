"""Units out of what was found: one function per kind of suite, each giving units and what it leaves out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from blocks.accelerators.registry import accelerator, for_slot
from blocks.catalog.match import label
from blocks.catalog.models import Cell, EnvironmentSpec, SuiteSpec
from blocks.lease import NAME_CHARACTERS
from blocks.plan import Skip, Unit
from tasks.plan.candidates import Candidate
from tasks.plan.discovery import NO_TESTS, Listing, Question
from tasks.plan.place import SourceTree, Unpacked
from tasks.plan.select import select
from tasks.plan.split import split_by_time, split_evenly
from tasks.plan.times import Times, seconds_of

SHOWN_CHARACTERS = 200
"""Of a name that is too long so much is shown, from its start and from its end."""


@dataclass(frozen=True)
class Part:
    """One cell of the matrix with all that is needed to plan it."""

    cell: Cell
    suite: SuiteSpec
    environment: EnvironmentSpec
    on: Unpacked
    sources: SourceTree | None
    times: Times

    @property
    def args(self) -> list[str]:
        return [*self.suite.args, *self.cell.tier.args]

    @property
    def env(self) -> dict[str, str]:
        """What the unit's processes see beside what the runner sets."""
        return {**accelerator(self.environment.accelerator).test_env, **self.environment.env, **self.suite.env}

    @property
    def devices(self) -> int:
        """Suites are device-generic: on an accelerator they get at least one device."""
        return 0 if self.environment.accelerator == "cpu" else max(1, self.suite.devices)

    def skip(self, name: str, reason: str) -> Skip:
        return Skip(self.cell.suite, self.cell.environment, name, reason)

    def unit(self, name: str, spec: dict[str, Any], tests: Sequence[str] = (), *, seconds: float) -> Unit:
        """A unit of this cell. `spec` gains what is not the default: args, env."""
        more: dict[str, Any] = {}
        if self.args and self.suite.kind != "command":
            more["args"] = self.args
        if self.env:
            more["env"] = self.env
        return Unit(
            suite=self.cell.suite,
            environment=self.cell.environment,
            name=name,
            kind=self.suite.kind,
            spec={**spec, **more} if more else spec,
            tests=tuple(tests),
            cpus=self.suite.cpus,
            devices=self.devices,
            memory_bytes=round(self.suite.memory_gib * (1 << 30)),
            exclusive=self.suite.exclusive,
            timeout_seconds=self.suite.timeout_minutes * 60,
            test_timeout_seconds=self.suite.test_timeout_seconds,
            estimate_seconds=self.suite.start_seconds + seconds,
        )


def question(part: Part, file: str) -> Question:
    """How the tests of `file` are asked for."""
    environment = part.on.environment
    said: dict[str, Any] = {"kind": part.suite.kind, "args": part.args, "env": part.env}
    said["binary" if part.suite.kind == "gtest" else "file"] = file
    device = for_slot(environment.accelerator, 0)
    request = {**said, "accelerator": device, "build": str(part.on.root), "python": part.on.python}
    if part.sources is not None:
        request["sources"] = str(part.sources.root)
    sources = part.sources.digest if part.sources else ""
    identity = {
        **said,
        "accelerator": environment.accelerator,
        "build": environment.build_digest,
        "python": environment.python,
        "sources": sources,
    }
    return Question(request, identity)


def from_listing(part: Part, candidate: Candidate, listing: Listing) -> Iterable[Unit | Skip]:
    """gtest and pytest: the file's chosen tests, cut into pieces."""
    spec = {"binary" if part.suite.kind == "gtest" else "file": candidate.path}
    if listing.error:
        # Not silently dropped and not the end of the night: the unit runs as a whole, and fails with this reason.
        yield part.unit(candidate.name, {**spec, "unlisted": listing.error}, seconds=0.0)
        return
    for test in listing.disabled:
        yield part.skip(label(candidate.name, test), "disabled in its source")
    disabled = set(listing.disabled)
    enabled = [test for test in listing.tests if test not in disabled]
    tests = [test for test in enabled if len(test) <= NAME_CHARACTERS]
    for test in enabled:
        if len(test) > NAME_CHARACTERS:
            reason = f"its name has {len(test):,} characters, and a record holds at most {NAME_CHARACTERS:,}"
            yield part.skip(_shortened(label(candidate.name, test)), reason)
    if not enabled:
        reason = "all its tests are disabled in their source" if disabled else NO_TESTS
        yield part.skip(candidate.name, reason)
    if not tests:
        return
    selection = select(tests, part.cell, candidate.name, part.suite.sample_by)
    for reason in selection.omitted:
        yield part.skip(candidate.name, reason)
    yield from _pieces(part, candidate, spec, selection.tests, tests)


def _shortened(name: str) -> str:
    """A name that people can still recognise, for a list of what was left out."""
    return f"{name[:SHOWN_CHARACTERS]}[...]{name[-SHOWN_CHARACTERS:]}"


def _pieces(
    part: Part, candidate: Candidate, spec: dict[str, Any], tests: Sequence[str], listed: Sequence[str]
) -> Iterable[Unit]:
    seconds = seconds_of(listed, candidate.name, part.times, part.suite)
    if part.cell.shards is not None:
        cut = split_evenly(tests, seconds, pieces=part.cell.shards)
    else:
        target, start = part.suite.target_seconds, part.suite.start_seconds
        cut = split_by_time(tests, seconds, target_seconds=target, start_seconds=start)
    for index, piece in enumerate(cut, start=1):
        name = f"{candidate.name} [{index}/{len(cut)}]" if len(cut) > 1 else candidate.name
        yield part.unit(name, spec, piece, seconds=sum(seconds(test) for test in piece))


def from_models(part: Part, models: Sequence[str]) -> Iterable[Unit | Skip]:
    """benchmark: one unit per model, since a model is what is measured alone."""
    chosen = select(models, part.cell, part.suite.script or "", None)
    for reason in chosen.omitted:
        yield part.skip(part.suite.script or part.cell.suite, reason.replace("tests", "models"))
    for model in chosen.tests:
        known = part.times.of_file(model)
        seconds = part.suite.default_seconds_per_test if known is None else known
        yield part.unit(model, {"script": part.suite.script, "model": model}, seconds=seconds)


def from_commands(part: Part) -> Iterable[Unit | Skip]:
    """command: one unit per command, or one per fixed shard with `{shard}` and `{shards}` filled in."""
    chosen = select(list(part.suite.commands), part.cell, part.cell.suite, None)
    for reason in chosen.omitted:
        yield part.skip(part.cell.suite, reason.replace("tests", "commands"))
    for name in chosen.tests:
        known = part.times.of_file(name)
        seconds = part.suite.default_seconds_per_test if known is None else known
        argv = [*part.suite.commands[name], *part.args]
        shards = part.cell.shards or 1
        for shard in range(1, shards + 1):
            title = f"{name} [{shard}/{shards}]" if shards > 1 else name
            unit = part.unit(title, {"argv": argv}, seconds=seconds / shards)
            yield _sharded(unit, shard, shards)


def _sharded(unit: Unit, shard: int, shards: int) -> Unit:
    def filled(text: str) -> str:
        return text.replace("{shards}", str(shards)).replace("{shard}", str(shard))

    spec = {**unit.spec, "argv": [filled(word) for word in unit.spec["argv"]]}
    if "env" in spec:
        spec["env"] = {key: filled(value) for key, value in spec["env"].items()}
    return replace(unit, spec=spec)
