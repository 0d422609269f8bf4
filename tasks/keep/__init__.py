"""Keeping what was collected: segments compacted, what is old let go, what a crash left swept away."""
