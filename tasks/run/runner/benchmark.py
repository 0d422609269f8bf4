"""The kind `benchmark`: a script that measures one model and writes what it found, a line of JSON each.

A line is a metric (model, mode, name, value, unit; low, high, samples where there are any), or {"result": {...}} for
a check that the script made. A line that is neither is told in the note, and the figures around it stay.
"""

from __future__ import annotations

import json
import math
import os
from typing import Any, List, Mapping, Optional, Tuple

from . import process, single
from .output import Output
from .records import BAD, SEVERITY, Json, named, result
from .workplace import Place

REPORT_BYTES = 64 << 20


def run(
    place: Place,
    spec: Mapping[str, Any],
    limits: process.Limits,
    around: process.Surroundings,
    output: Output,
) -> Tuple[single.Single, List[Json], List[Json], str]:
    """(how it ended, results, metrics, note). There is always a result, for the model itself if for nothing else."""
    script, model = str(spec["script"]), str(spec["model"])
    report = place.path("report.jsonl")
    argv = [place.python, os.path.join(place.sources or "", script), "--model", model, "--out", report]
    argv += [str(word) for word in spec.get("args") or ()]
    done = single.run(lambda survivors: place.command(argv, survivors=survivors), limits, around, output)
    results, metrics, wrong = read(report, script, model)
    outcome = done.outcome()
    if outcome != "passed" and not (outcome == "failed" and any(one["outcome"] in BAD for one in results)):
        # The process went wrong in a way that no result of its own tells.
        results = [one for one in results if one["name"] != model]
        results.append(result(script, "", model, outcome, _seconds(done), done.message()))
    elif not results:
        ran = outcome == "passed" and bool(metrics)
        message = None if ran else "the script wrote neither a metric nor a result"
        results.append(result(script, "", model, "passed" if ran else "error", _seconds(done), message))
    return done, results, metrics, "; ".join(wrong[:5])


def _seconds(done: single.Single) -> Optional[float]:
    return done.ended.seconds if done.ended else None


def read(path: str, script: str, model: str) -> Tuple[List[Json], List[Json], List[str]]:
    """(results, metrics, what was wrong with single lines) of a report; all empty where there is none."""
    results: List[Json] = []
    metrics: List[Json] = []
    wrong: List[str] = []
    try:
        with open(path, "rb") as file:
            lines = file.read(REPORT_BYTES).decode("utf-8", "replace").splitlines()
    except OSError:
        return results, metrics, wrong
    for number, line in enumerate(lines, 1):
        try:
            body = json.loads(line) if line.strip() else None
            if isinstance(body, dict) and "result" in body:
                results.append(_result(body["result"], script, model))
            elif body is not None:
                metrics.append(_metric(body, model))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            wrong.append(f"line {number} of the report is neither a metric nor a result: {error}")
    return results, metrics, wrong


def _result(body: Mapping[str, Any], script: str, model: str) -> Json:
    if body.get("outcome") not in SEVERITY:
        raise ValueError(f"no such outcome: {body.get('outcome')!r}")
    seconds = None if body.get("seconds") is None else float(body["seconds"])
    name = str(body.get("name") or model)
    message = str(body.get("message") or "")
    return result(str(body.get("file") or script), str(body.get("cls") or ""), name, body["outcome"], seconds, message)


def _metric(body: Mapping[str, Any], model: str) -> Json:
    metric: Json = {
        "model": named(str(body.get("model") or model)),
        "mode": named(str(body.get("mode") or "")),
        "name": named(str(body["name"])),
        "value": _finite(body["value"]),
        "unit": named(str(body.get("unit") or "")),
    }
    for bound in ("low", "high"):
        if body.get(bound) is not None:
            metric[bound] = _finite(body[bound])
    if body.get("samples") is not None:
        metric["samples"] = [_finite(sample) for sample in body["samples"]]
    return metric


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is no finite number")
    return number
