"""Pools as Prefect Blocks: what a person may set about them in the UI.

The catalog says which pools there are; a block says what its owner allows right now, and flows started through
Prefect look here first. Without a server the catalog alone holds.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from prefect.blocks.core import Block
from pydantic import Field

THIS_MACHINE = "this-machine"
"""Name of the document that `commonfleet up` makes for the machine it runs on."""


class LocalPool(Block):
    """This machine as a source of slots. Runs that start after a change keep to it; running ones are not touched."""

    _block_type_name: ClassVar[str] = "commonfleet local pool"
    _block_type_slug: ClassVar[str] = "commonfleet-local-pool"
    _description: ClassVar[str] = "What runs started here may take of this machine."

    slots: int = Field(
        default=0,
        ge=0,
        le=1024,
        title="Slots",
        description="At most this many lanes of work at once. 0 takes what the catalog says (by default one per core).",
    )
    state: Literal["open", "closed"] = Field(
        default="open",
        title="State",
        description="A closed pool takes no new runs: they fail at once, saying so, and those in hand go on.",
    )
