"""What PyTorch's benchmarks call things, for both formats that carry them: outcomes, units of figures."""

from __future__ import annotations

ACCURACY = {
    "pass": "passed",
    "pass_due_to_skip": "skipped",
    "fail_accuracy": "failed",
    "timeout": "timed_out",
}
"""The `accuracy` column (benchmarks/dynamo/common.py). Every other word (`eager_1st_run_OOM`, `fail_to_run`,
`infra_error`, ...) is an error: the benchmark came to no verdict."""

UNITS = {
    "speedup": "x", "abs_latency": "ms", "compilation_latency": "s", "compression_ratio": "x",
    "eager_peak_mem": "GB", "dynamo_peak_mem": "GB", "baseline": "x", "speedup_vs_baseline": "x",
    "calls_captured": "count", "unique_graphs": "count", "graph_breaks": "count", "unique_graph_breaks": "count",
    "autograd_captures": "count", "autograd_compiles": "count", "cudagraph_skips": "count",
}  # fmt: skip
"""Units of measure by the metric's name, where the format has no place for them."""


def accuracy(word: str) -> str:
    """The outcome that a word of the accuracy column stands for."""
    return ACCURACY.get(word.strip().lower(), "error")


def unit_of(metric: str) -> str:
    """The unit of a metric by its name; `cold_compile_time(s)` carries its own."""
    if metric in UNITS:
        return UNITS[metric]
    inner = metric.rpartition("(")[2]
    return inner[:-1] if metric.endswith(")") and 0 < len(inner) <= 12 else ""
