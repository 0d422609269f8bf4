"""Values as people read them: durations, sizes, counts, times, and foreign text made harmless to look at."""

from __future__ import annotations

import datetime
import re

from tasks.publish.report.story import Clip

# Colours and cursor movements that tools print: noise on a page.
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]{0,4096}(?:\x07|\x1b\\)|[@-Z\\-_])")
# Invisible or direction-changing characters could make a text look like another one ("trojan source").
_HIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")


def shown(text: str) -> str:
    """`text` without terminal colours, and with every control or invisible character made visible."""
    text = _ANSI.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    return _HIDDEN.sub(_picture, text)


def _picture(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else f"\u27e8U+{code:04X}\u27e9"


def clip(text: str, limit: int) -> Clip:
    """`text`, at most about `limit` characters of it: its first fifth and its end, where the reason mostly stands."""
    # Cut before cleaning: a message may be a hundred megabytes. Twice the limit leaves room for what cleaning removes.
    if len(text) <= limit:
        return Clip(shown(text))
    first, last = limit // 5, limit - limit // 5
    return Clip(shown(text[:first]), len(text) - first - last, shown(text[-last:]))


def name(text: str, limit: int = 240) -> str:
    """A name on one line, its middle cut out where it is very long."""
    if len(text) > 8 * limit:  # Cut before cleaning: a name may be a megabyte long.
        text = text[: 4 * limit] + text[-4 * limit :]
    line = shown(text).replace("\n", "\u2424").replace("\t", " ")
    return line if len(line) <= limit else f"{line[: limit - 60]} … {line[-56:]}"


def count(value: int) -> str:
    """`12345` as `12,345`."""
    return f"{value:,}"


def plural(value: int, noun: str, many: str = "") -> str:
    """`1 unit`, `1,204 units`."""
    return f"{value:,} {noun if value == 1 else many or noun + 's'}"


def duration(seconds: float | None) -> str:
    """Seconds as `340 µs`, `12 ms`, `3.42 s`, `1 min 12 s`, `2 h 05 min`, `3 d 04 h`."""
    if seconds is None:
        return "–"
    if seconds < 0:
        return "-" + duration(-seconds)
    if seconds == 0:
        return "0 s"
    if seconds < 0.9995:
        scale, unit = (1e3, "ms") if seconds >= 0.0009995 else (1e6, "µs")
        return f"{significant(seconds * scale)} {unit}"
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24:02d} h"


def significant(value: float, digits: int = 3) -> str:
    """`value` to so many significant digits, never in scientific notation for ordinary sizes."""
    if value == 0:
        return "0"
    if abs(value) >= 10**digits:
        return f"{value:,.0f}"
    return f"{float(f'{value:.{digits}g}'):.{digits}g}"


def size(amount: float) -> str:
    """Bytes as `512 B`, `1.5 MiB`, `3.2 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(amount) < 1023.5:
            return f"{significant(amount)} {unit}"
        amount /= 1024
    return f"{significant(amount)} TiB"


_SECONDS = {"s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_BYTES = {"b": 1, "byte": 1, "bytes": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "mb": 10**6, "gb": 10**9}
_TIMES = {"x", "×", "ratio", "times"}


def measure(value: float, unit: str) -> str:
    """A figure with its unit of measure, in the size that people read best."""
    plain = unit.strip().lower()
    if plain in _SECONDS:
        return duration(value * _SECONDS[plain])
    if plain in _BYTES:
        return size(value * _BYTES[plain])
    if plain in _TIMES:
        return f"{value:.2f}×"
    if plain in {"", "count", "1"}:
        return significant(value, 4)
    return f"{significant(value, 4)} {name(unit, 24)}"


def interval(low: float, high: float, unit: str) -> str:
    """`804 – 836 µs`: the unit of measure is said once where both ends have the same."""
    first, second = measure(low, unit), measure(high, unit)
    number, _, of = first.partition(" ")
    if is_ratio(unit):
        return f"{low:.2f} – {second}"
    if of and second.endswith(f" {of}") and second.count(" ") == 1:
        return f"{number} – {second}"
    return f"{first} – {second}"


def is_ratio(unit: str) -> bool:
    """Whether the figure compares two others (a speedup), so that 1 means no difference."""
    return unit.strip().lower() in _TIMES


def percent(part: float, whole: float) -> str:
    """`part` of `whole`. Never `100 %` or `0 %` unless it is exactly that."""
    if whole <= 0:
        return "–"
    share = 100 * part / whole
    if 0 < share < 0.1:
        return "< 0.1 %"
    if 99.9 < share < 100:
        return "> 99.9 %"
    return f"{share:.0f} %" if share in (0, 100) or 1 <= share <= 99 else f"{share:.1f} %"


def moment(at: float | None) -> str:
    """An instant as `2025-05-12 02:00:13 UTC`."""
    return "–" if at is None else f"{_utc(at):%Y-%m-%d %H:%M:%S} UTC"


def day(at: float) -> str:
    """An instant as `12 May 2025, 02:00`."""
    when = _utc(at)
    return f"{when.day} {when:%B %Y, %H:%M}"


def iso(at: float) -> str:
    """An instant as machines read it."""
    return f"{_utc(at):%Y-%m-%dT%H:%M:%SZ}"


def spoken(word: str) -> str:
    """`timed_out` as `timed out`."""
    return word.replace("_", " ")


def _utc(at: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(at, datetime.UTC)
