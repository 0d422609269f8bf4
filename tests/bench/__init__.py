"""The benchmarks: `make bench` runs them all, `python -m tests.bench NAME` one. Each prints one line of JSON."""
