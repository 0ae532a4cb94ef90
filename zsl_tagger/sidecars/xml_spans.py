"""XML tree with the byte position of each element and attribute, for edits in place.

expat finds the elements and rejects XML that is not well-formed. A document type is rejected before it is parsed, so
there are no entities to expand and nothing outside the file is opened.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from xml.parsers import expat

from zsl_tagger.sidecars.keywords import SidecarError, check_parts

MAX_DEPTH = 500  # real files have about ten
MAX_KEPT = 100_000  # elements and attributes; real files keep a few hundred

_ATTRIBUTE = rb"""\s+([^\s=>/]+)\s*=\s*("[^"]*"|'[^']*')"""
_START_TAG = re.compile(rb"<[^\s/>]+((?:" + _ATTRIBUTE + rb")*)\s*(/?)>")
_ATTRIBUTES = re.compile(_ATTRIBUTE)

#: (namespace, local name)
Name = tuple[str, str]
#: (start, end, replacement)
Edit = tuple[int, int, bytes]

#: Matches every start of an element or attribute, and some more.
_PARTS = re.compile(rb"""<[^/!?]|=\s*["']""")

XMLNS = "http://www.w3.org/2000/xmlns/"


@dataclass(slots=True)
class Attribute:
    """An attribute, or an ``xmlns`` declaration (in namespace :data:`XMLNS`), with leading white space in its span."""

    name: Name
    value: str
    start: int
    end: int


@dataclass(slots=True)
class Element:
    """An element at ``xml[start:end]`` with its content at ``xml[inside:inside_end]``; ``<a/>`` is ``empty``."""

    name: Name
    raw_name: bytes
    attributes: list[Attribute]
    start: int
    inside: int
    empty: bool
    inside_end: int = 0
    end: int = 0
    pieces: list[str] = field(default_factory=list)
    children: list[Element] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Return the text of the element, without child elements and with entities resolved."""
        return "".join(self.pieces)

    def own_attributes(self) -> list[Attribute]:
        """Return the attributes except namespace declarations."""
        return [attribute for attribute in self.attributes if attribute.name[0] != XMLNS]


class XmlTree:
    """An XML document as UTF-8 bytes.

    Args:
        keeps: whether to keep the children of the last of these nested elements.

    Attributes:
        root: root element.
        comments: whether there are comments or processing instructions other than ``xpacket``.

    Raises:
        SidecarError: it is not well-formed, has a document type, is nested too deeply, or has too many elements.
    """

    def __init__(self, xml: bytes, keeps: Callable[[Sequence[Element]], bool]):
        check_parts(_PARTS, xml, "elements and attributes")
        self.xml, self.comments = xml, False
        self._keeps, self._kept = keeps, 0
        self._open: list[Element] = []
        self._prefixes: dict[str, list[str]] = {"xml": ["http://www.w3.org/XML/1998/namespace"]}
        self._parser = parser = expat.ParserCreate("utf-8")  # whatever it declares: it has been decoded already
        parser.buffer_text = True  # otherwise each line and entity is reported separately
        parser.StartDoctypeDeclHandler = self._doctype
        parser.StartElementHandler, parser.EndElementHandler = self._start, self._end
        parser.CharacterDataHandler = self._text
        parser.CommentHandler, parser.ProcessingInstructionHandler = self._comment, self._instruction
        try:
            parser.Parse(xml, True)
        except expat.ExpatError as error:
            reason = f"{expat.ErrorString(error.code)}, line {error.lineno}"
            raise SidecarError(f"not well-formed XML ({reason}): left as it is") from None

    def _doctype(self, *_: object) -> None:
        raise SidecarError("has a document type (<!DOCTYPE), which XMP does not allow: left as it is")

    def _comment(self, _: str) -> None:
        self.comments = True

    def _instruction(self, target: str, _: str) -> None:
        self.comments |= target != "xpacket"

    def _text(self, text: str) -> None:
        self._open[-1].pieces.append(text)

    def _start(self, raw_name: str, values: dict[str, str]) -> None:
        if len(self._open) == MAX_DEPTH:
            raise SidecarError(f"nested more than {MAX_DEPTH} deep: left as it is")
        start = self._parser.CurrentByteIndex
        tag = _START_TAG.match(self.xml, start)
        if tag is None:
            raise SidecarError("its tags cannot be parsed: left as it is")
        for key, value in values.items():
            if (prefix := _declared_prefix(key)) is not None:
                if value == XMLNS:  # otherwise attributes with that prefix would count as declarations
                    raise SidecarError(f"not well-formed XML (prefix {prefix!r} is bound to {XMLNS}): left as it is")
                self._prefixes.setdefault(prefix, []).append(value)
        attributes = [
            Attribute(self._name(found[1].decode(), ""), values[found[1].decode()], found.start(), found.end())
            for found in _ATTRIBUTES.finditer(self.xml, tag.start(1), tag.end(1))
        ]
        default = self._prefixes.get("", [""])[-1]
        name, empty = self._name(raw_name, default), tag[4] == b"/"
        element = Element(name, raw_name.encode(), attributes, start, tag.end(), empty)
        if not self._open:
            self.root = element
        elif self._keeps(self._open):
            self._keep(element)
        self._open.append(element)

    def _keep(self, element: Element) -> None:
        self._kept += 1 + len(element.attributes)
        if self._kept > MAX_KEPT:
            raise SidecarError(f"has more than {MAX_KEPT:,} properties and keywords: left as it is")
        self._open[-1].children.append(element)

    def _end(self, _: str) -> None:
        element = self._open.pop()
        if element.empty:
            element.inside_end = element.end = element.inside
        else:
            element.inside_end = self._parser.CurrentByteIndex
            element.end = self.xml.index(b">", element.inside_end) + 1
        for attribute in element.attributes:
            if attribute.name[0] == XMLNS:
                self._prefixes[attribute.name[1]].pop()

    def _name(self, raw: str, default: str) -> Name:
        if (declared := _declared_prefix(raw)) is not None:
            return XMLNS, declared
        prefix, colon, local = raw.partition(":")
        if not colon:
            return default, raw
        if not self._prefixes.get(prefix):
            raise SidecarError(f"not well-formed XML (prefix {prefix!r} is not declared): left as it is")
        return self._prefixes[prefix][-1], local

    def space_before(self, position: int) -> int:
        """Return the start of the white space that ends at ``position``."""
        while self.xml[position - 1 : position].isspace():
            position -= 1
        return position


def _declared_prefix(attribute: str) -> str | None:
    return "" if attribute == "xmlns" else attribute[6:] if attribute.startswith("xmlns:") else None


def edited(xml: bytes, edits: Iterable[Edit]) -> bytes:
    """Apply edits that do not overlap; edits at the same position keep their order."""
    return b"".join(_pieces(xml, sorted(edits, key=lambda edit: edit[:2])))


def _pieces(xml: bytes, edits: list[Edit]) -> Iterator[bytes]:
    done = 0
    for start, end, content in edits:
        yield xml[done:start]
        yield content
        done = end
    yield xml[done:]
