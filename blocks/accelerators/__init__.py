"""The accelerator classes, a file each; `registry.py` has them by name."""

from blocks.accelerators.registry import ACCELERATORS, accelerator, for_slot

__all__ = ["ACCELERATORS", "accelerator", "for_slot"]
