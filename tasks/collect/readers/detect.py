"""Which kind of report a file is: by its content alone, never by its name. Gzip is looked through, with a guard."""

from __future__ import annotations

import zlib

from tasks.collect.readers import benchmark_v3, dynamo_csv, gtest_json, junit, reportlog
from tasks.collect.readers.base import MB, Limits, Reader

KINDS: tuple[Reader, ...] = (junit, reportlog, gtest_json, benchmark_v3, dynamo_csv)
"""In the order in which they are asked."""

_HEAD = 256 << 10
_PIECE = MB


class Unreadable(Exception):
    """A content that no reader may be given; the message says why."""


def kind_of(data: bytes, only: str | None = None) -> Reader | None:
    """The reader for this content, or None; with `only` no other than the one of that name."""
    head = data[:_HEAD]
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = head[: len(head) & ~1].decode("utf-16", "replace")
    else:
        text = head.decode("utf-8", "replace").removeprefix("\ufeff")
    text = text.lstrip(" \t\r\n\0")
    asked = [kind for kind in KINDS if only in (None, kind.NAME)]
    return next((kind for kind in asked if text and kind.recognises(text)), None)


def is_gzip(data: bytes) -> bool:
    return data[:3] == b"\x1f\x8b\x08"


def unpacked(data: bytes, limits: Limits) -> tuple[bytes, str]:
    """The content of a gzip file (all its members), and why it is not all of it. Raises Unreadable for a bomb."""
    most = min(limits.bytes, max(limits.ratio_free_bytes, limits.ratio * len(data)))
    out, rest = bytearray(), data
    try:
        while is_gzip(rest):
            member = zlib.decompressobj(wbits=31)
            while not member.eof:
                piece = member.decompress(rest, _PIECE)
                rest = member.unconsumed_tail
                out += piece
                if len(out) > most:
                    raise Unreadable(
                        f"its gzip holds more than {most // MB} MB, {len(out) // len(data)} times its size"
                    )
                if not piece and not rest and not member.eof:
                    return bytes(out), "its gzip ends in the middle"
            rest = member.unused_data
    except zlib.error as error:
        return bytes(out), f"its gzip is damaged: {error}"
    return bytes(out), "something else follows its gzip" if rest.strip(b"\0") else ""
