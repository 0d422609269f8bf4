"""The command line `commonfleet`: a file per group of commands, heavy imports only inside them."""

from deployments.cli.main import main

__all__ = ["main"]
