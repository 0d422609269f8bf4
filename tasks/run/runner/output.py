"""What a unit printed: its head and its tail, however much it was.

A unit that prints a gigabyte must cost neither memory nor disk, and both ends are what people read.
"""

from __future__ import annotations


class Tail:
    """The last `cap` bytes of a stream."""

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self._kept = bytearray()

    def add(self, data: bytes) -> None:
        self._kept += data[-self.cap :] if self.cap else b""
        # Trimmed only when it has doubled, so that each byte is moved about once.
        if len(self._kept) > 2 * self.cap:
            del self._kept[: -self.cap]

    def clear(self) -> None:
        self._kept.clear()

    def bytes(self) -> bytes:
        return bytes(self._kept[-self.cap :]) if self.cap else b""


class Output:
    """Head and tail of everything written, and the number of bytes it was."""

    def __init__(self, cap: int) -> None:
        self.total = 0
        self._head = bytearray()
        self._head_cap = cap // 2
        self._tail = Tail(cap - cap // 2)

    def add(self, data: bytes) -> None:
        self.total += len(data)
        room = self._head_cap - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail.add(data)

    def text(self) -> str:
        """As text; where the middle is missing, a line says how much."""
        tail = self._tail.bytes()
        left_out = self.total - len(self._head) - len(tail)
        middle = b"\n[... %d bytes left out ...]\n" % left_out if left_out > 0 else b""
        return (bytes(self._head) + middle + tail).decode("utf-8", "replace")
