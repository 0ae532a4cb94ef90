"""Decode text files losslessly: the byte order mark is kept as the first character."""

from __future__ import annotations

import codecs
import re

from zsl_tagger.sidecars.keywords import SidecarError

_MARKS = (  # UTF-32 first: its mark starts with the UTF-16 mark
    (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"),
)  # fmt: skip
_XML_STARTS = {b"<\0": "utf-16-le", b"\0<": "utf-16-be"}
_DECLARED = re.compile(rb"""^(?:\xef\xbb\xbf)?<\?xml[^>]*?\sencoding\s*=\s*["']([A-Za-z][\w.-]*)["']""")
#: Declared XML encodings that are supported, since they preserve every byte.
_READ = ("utf-8", "ascii", "iso8859-1", "cp1252")


def encoding_of(content: bytes) -> str:
    """Return the encoding given by the byte order mark, otherwise UTF-8."""
    return next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")


def xml_encoding_of(content: bytes) -> str:
    """Return the encoding given by the byte order mark, otherwise the declared one.

    Raises:
        SidecarError: the encoding is not supported.
    """
    name = _XML_STARTS.get(content[:2]) or encoding_of(content)
    declared = _DECLARED.match(content)
    if name != "utf-8" or declared is None or content.startswith(codecs.BOM_UTF8):
        return name
    try:
        name = codecs.lookup(declared[1].decode()).name
    except LookupError:
        name = ""
    if name not in _READ:
        raise SidecarError(f"expected UTF-8 or UTF-16, but it declares {declared[1].decode()}: left as it is")
    return name


def decoded(content: bytes, encoding: str) -> str:
    """Decode bytes to text that encodes to the same bytes again.

    Raises:
        SidecarError: that is not possible.
    """
    try:
        text = content.decode(encoding)
    except UnicodeError:
        raise SidecarError(f"not text in {encoding}: left as it is") from None
    if text.encode(encoding) != content:
        raise SidecarError(f"not valid text in {encoding}: left as it is")
    return text
