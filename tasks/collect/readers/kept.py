"""The form in which a raw file is kept: a frame that says whose it is, then the file as one Zstandard frame.

Any `zstd -d` gives the file back: the first frame is a "skippable" one (RFC 8878, section 3.1.2). It makes the kept
form of a file in two runs two contents, so that letting one go never takes the other with it.
"""

from __future__ import annotations

import struct
from typing import Any

import pyarrow as pa

from blocks.canonical import canonical_json

LEVEL = 1  # XML shrinks to a tenth of its size at some 700 MB a second; higher levels gain little of it
_SKIPPABLE = 0x184D2A50


def kept(data: bytes, about: dict[str, Any]) -> bytes:
    """What is written to the store for a file with these bytes."""
    said = canonical_json(about)
    frame: pa.Buffer = pa.Codec("zstd", compression_level=LEVEL).compress(data)
    return struct.pack("<II", _SKIPPABLE, len(said)) + said + memoryview(frame)


def raw(stored: bytes) -> bytes:
    """The file again. Raises ValueError where this is no kept form."""
    if len(stored) < 8 or struct.unpack_from("<I", stored)[0] != _SKIPPABLE:
        raise ValueError("it does not start with a frame of ours")
    frame = memoryview(stored)[8 + struct.unpack_from("<I", stored, 4)[0] :]
    with pa.input_stream(pa.py_buffer(frame), compression="zstd") as stream:
        content: bytes = stream.read()
    return content
