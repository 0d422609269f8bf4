"""Faults, injected for real. `make test` runs a seeded sample of each, `make soak` the full counts.

SOAK_SEED repeats a soak exactly; SOAK_STATE names a file that remembers the rounds already passed, so that a soak
that was interrupted goes on where it stopped.
"""
