"""XML that no parser may accept, made into XML that says the same: encodings, control characters, stray ampersands.

Used only after a content was refused as it is, since it costs a second reading.
"""

from __future__ import annotations

import codecs
import re

_DECLARED = re.compile(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]{1,40})["']""")
_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")
_BAD = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_LONG = re.compile(rb"""=(\s*"[^"<]{65536})[^"<]*"|=(\s*'[^'<]{65536})[^'<]*'""")
# CDATA sections hold anything and stay as they are; outside of them every ampersand must start a known reference.
_REFERENCE = re.compile(
    r"<!\[CDATA\[.*?(?:\]\]>|\Z)|&(?:(?:amp|lt|gt|quot|apos);|#(x[0-9A-Fa-f]+|[0-9]+);)?", re.DOTALL
)
_KNOWN_CODECS = ("utf", "iso8859", "cp", "ascii", "koi8", "gb", "big5", "shift_jis", "euc", "latin", "mac")


def repaired(data: bytes) -> bytes:
    """The document in UTF-8, for a parser that is told so: bytes, characters and references that XML forbids gone.

    What cannot be said becomes U+FFFD, in references too; an unknown entity stays readable as text.
    """
    text = data.decode(_encoding(data), "replace").rstrip("\0")
    text = _BAD.sub("\ufffd", _DECLARATION.sub("", text.removeprefix("\ufeff")))
    return _REFERENCE.sub(_reference, text).encode()


def shortened(data: bytes) -> bytes:
    """Every attribute value cut to 64 kB: a longer one takes expat a time that grows with its square."""
    return _LONG.sub(lambda match: b"=" + (match[1] + b'"' if match[1] else match[2] + b"'"), data)


def _encoding(data: bytes) -> str:
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if data.startswith(mark):
            return encoding
    declared = _DECLARED.match(data[:512])
    try:
        name = codecs.lookup(declared[1].decode()).name if declared else "utf-8"
    except LookupError:
        return "utf-8"
    # Some codecs (punycode) take a time that grows with the square, others turn text into bytes.
    known = name.startswith(_KNOWN_CODECS) and not name.startswith(("utf-16", "utf-32", "utf-7"))
    return name if known else "utf-8"


def _reference(match: re.Match[str]) -> str:
    whole, code = match[0], match[1]
    if whole == "&":
        return "&amp;"
    if code is None:
        return whole
    digits = (code[1:] if code[0] == "x" else code).lstrip("0")[:8] or "0"
    point = int(digits, 16 if code[0] == "x" else 10)
    legal = point in (9, 10, 13) or 0x20 <= point <= 0xD7FF or 0xE000 <= point <= 0xFFFD or 0x10000 <= point <= 0x10FFFF
    return whole if legal else "\ufffd"
