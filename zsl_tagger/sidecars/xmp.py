"""XMP sidecars: keywords in the lists that darktable, digiKam and Lightroom read, and a record of what we added.

``dc:subject`` and ``lr:hierarchicalSubject`` are always written; in hierarchical lists, a tag with parents becomes
``animal|mammal|dog``. Programs differ in which list they use, so:

* darktable reads ``lr:hierarchicalSubject``, and ``dc:subject`` only if it is absent: a new
  ``lr:hierarchicalSubject`` therefore includes the user's keywords of ``dc:subject``.
* digiKam reads the first existing one of ``digiKam:TagsList``, ``MicrosoftPhoto:LastKeywordXMP`` and
  ``lr:hierarchicalSubject``: the first two are written if a sidecar already has them.

A keyword of the user in ``dc:subject`` is neither written again nor removed. What we added to each list is recorded in
a list of our own, ``addedSubject`` etc. in the namespace :data:`OURS`, so that it can be removed even after other
programs have rewritten the file.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from itertools import count
from types import MappingProxyType
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr

from zsl_tagger.records.record import Tag
from zsl_tagger.sidecars.encodings import decoded, xml_encoding_of
from zsl_tagger.sidecars.keywords import Parents, SidecarError, folded, keyword, keywords_of, without_known
from zsl_tagger.sidecars.xml_spans import XMLNS, Attribute, Edit, Element, Name, XmlTree, edited

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
OURS = "http://ns.zsl-tagger/sidecar/1.0/"
_PREFIX = "zslTagger"

_NEW = f"""<?xml version="1.0" encoding="UTF-8"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="zsl-tagger">
 <rdf:RDF xmlns:rdf="{RDF}">
 </rdf:RDF>
</x:xmpmeta>
""".encode()


class _List(NamedTuple):
    """A property with keywords: its namespace, its name, and the separator of hierarchical keywords."""

    namespace: str
    prefix: str
    local: str
    separator: str | None
    always: bool  # otherwise only if the sidecar has it

    @property
    def name(self) -> Name:
        return self.namespace, self.local

    @property
    def record(self) -> str:
        """Return the name of our record of additions; it differs, since exiftool would otherwise show it instead."""
        return f"added{self.local[0].upper()}{self.local[1:]}"


_SUBJECT = _List("http://purl.org/dc/elements/1.1/", "dc", "subject", None, always=True)
_PATHS = (
    _List("http://ns.adobe.com/lightroom/1.0/", "lr", "hierarchicalSubject", "|", always=True),
    _List("http://www.digikam.org/ns/1.0/", "digiKam", "TagsList", "/", always=False),
    _List("http://ns.microsoft.com/photo/1.0/", "MicrosoftPhoto", "LastKeywordXMP", "/", always=False),
)
_LISTS = (_SUBJECT, *_PATHS)

#: Notes about the file in attributes of our block: we created it; it existed but was empty; its rdf:RDF was
#: self-closed.
_MADE, _FILLED, _OPENED = "madeFile", "filledFile", "openedRdf"
_VALUE = RDF, "value"

#: Content of each list, by local name.
_Words = dict[str, list[str]]


def merged(content: bytes | None, tags: Sequence[Tag], parents: Parents = MappingProxyType({})) -> bytes | None:
    """Return a sidecar in which these tags replace our previous ones (see the package).

    Args:
        parents: parents of a label, most general first.

    Raises:
        SidecarError: ``content`` is not XMP, or its keywords are not in a list.
    """
    keywords = keywords_of(tags)
    parents = {keyword(tag.label): [keyword(parent) for parent in parents.get(tag.label, ())] for tag in tags}
    if not content:
        note = _MADE if content is None else _FILLED
        return _with_keywords(_NEW, _wanted(_Packet(_NEW), keywords, parents), {note}) if keywords else content
    encoding = xml_encoding_of(content)
    packet = _Packet(decoded(content, encoding).encode())
    bare, all_there = packet.without_ours()
    notes = packet.notes - {_OPENED}
    if notes and _Packet(bare).holds_nothing:
        if not keywords:
            return b"" if _FILLED in notes else None
        bare, encoding = _NEW, "utf-8"
    wanted = _wanted(_Packet(bare), keywords, parents)
    if all_there and _same(wanted, packet.recorded):
        return content
    new = _with_keywords(bare, wanted, notes) if wanted else bare
    return new.decode().encode(encoding, "xmlcharrefreplace")


def owned_keywords(content: bytes) -> list[str]:
    """Return the keywords that this tool added.

    Raises:
        SidecarError: ``content`` is not XMP.
    """
    packet = _Packet(decoded(content, xml_encoding_of(content)).encode())
    return packet.recorded.get(_SUBJECT.local, [])


def corrected(
    content: bytes | None, added: Sequence[str], dropped: Sequence[str], parents: Parents = MappingProxyType({})
) -> bytes | None:
    """Return a sidecar with some of this tool's keywords added and others removed.

    The user's keywords are neither added again nor removed.

    Args:
        parents: labels above an added keyword, the most general one first.

    Raises:
        SidecarError: see :func:`merged`.
    """
    packet = _Packet(decoded(content, xml_encoding_of(content)).encode()) if content else _Packet(_NEW)
    there = packet.words(_SUBJECT)
    unwanted = {folded(keyword(word)) for word in dropped}
    still_there = set(map(folded, there))  # another program may have deleted some of this tool's
    own = [word for word in packet.recorded.get(_SUBJECT.local, []) if folded(word) in still_there]
    kept = [word for word in own if folded(word) not in unwanted]
    new = without_known(map(keyword, added), there)
    if not new and kept == own:
        return content
    paths = {**packet.recorded_parents(), **parents}
    return merged(content, [Tag(word, 1.0) for word in (*kept, *new)], paths)


def of_user(content: bytes) -> list[str]:
    """Return the keywords that this tool did not add; for a hierarchical keyword, its last level.

    Raises:
        SidecarError: ``content`` is not XMP, or its keywords are not in a list.
    """
    packet = _Packet(decoded(content, xml_encoding_of(content)).encode())
    bare = _Packet(packet.without_ours()[0]) if packet.recorded or packet.notes else packet
    leaves = (path.split(each.separator)[-1] for each in _PATHS for path in bare.words(each))
    return list(filter(str.strip, [*bare.words(_SUBJECT), *leaves]))


class _Packet:
    """Parsed content of a sidecar, as UTF-8.

    Attributes:
        recorded: what this tool added to each list.
        notes: our notes about the file.
    """

    def __init__(self, xml: bytes):
        self.tree = XmlTree(xml, _may_hold_keywords)
        root = self.tree.root
        found = [element for element in (root, *root.children) if element.name == (RDF, "RDF")]
        if not found:
            raise SidecarError("XML, but not XMP (no rdf:RDF): left as it is")
        self.rdf = found[0]
        recorded = {each.local: [item.text for item in self.items((OURS, each.record))] for each in _LISTS}
        self.recorded: _Words = {name: words for name, words in recorded.items() if words}
        present = {attribute.name for block in self.rdf.children for attribute in block.attributes}
        present |= {element.name for block in self.rdf.children for element in block.children}
        self.notes = {note for note in (_MADE, _FILLED, _OPENED) if (OURS, note) in present}

    @property
    def holds_nothing(self) -> bool:
        blocks = self.rdf.children
        return not self.tree.comments and not any(block.children or _values(block) for block in blocks)

    def properties(self, name: Name) -> list[Element]:
        return [element for block in self.rdf.children for element in block.children if element.name == name]

    def items(self, name: Name) -> list[Element]:
        """Return the items of a list, which may occur more than once in a broken sidecar.

        Raises:
            SidecarError: it is not a list.
        """
        if any(attribute.name == name for block in self.rdf.children for attribute in block.attributes):
            raise SidecarError(f"its {name[1]} is an attribute, not a list of keywords: left as it is")
        return [item for element in self.properties(name) for item in _items(element)]

    def words(self, each: _List) -> list[str]:
        return [_text_of(item) for item in self.items(each.name)]

    def recorded_parents(self) -> Parents:
        """Return the levels above each keyword that this tool added to lists of paths."""
        parents: dict[str, list[str]] = {}
        for each in _PATHS:
            paths = [path.split(each.separator) for path in self.recorded.get(each.local, ())]
            above = {levels[-1]: levels[:-1] for levels in paths}
            for word in self.recorded.get(_SUBJECT.local, ()):
                if _level(word, each) in above:
                    parents.setdefault(word, above[_level(word, each)])
        return parents

    def without_ours(self) -> tuple[bytes, bool]:
        """Return the sidecar without our additions, and whether all of them were still there."""
        cut: list[Element] = []
        all_there = True
        for each in _LISTS:
            left = Counter(self.recorded.get(each.local, []))
            cut += self._added_to(each, left)
            all_there &= not +left
        ids = set(map(id, cut))
        edits = [edit for block in self.rdf.children for edit in self._cuts_of_block(block, ids)]
        outer = [self.rdf] if self.rdf is self.tree.root else [self.tree.root, self.rdf]
        edits += [(one.start, one.end, b"") for element in outer for one in element.attributes if _declares_ours(one)]
        bare = edited(self.tree.xml, edits)
        return _closed_again(bare) if _OPENED in self.notes else bare, all_there

    def _added_to(self, each: _List, left: Counter[str]) -> list[Element]:
        """Return the items of a list that we added, or the whole list if it has no others; remove them from ``left``.

        A duplicate was added by the user since: one is kept.
        """
        added: list[Element] = []
        for element in self.properties(each.name) if left else []:
            items, own = _items(element), []
            for item in items:
                if left[item.text] > 0:
                    left[item.text] -= 1
                    own.append(item)
            added += [element] if own and len(own) == len(items) else own
        return added

    def _cuts_of_block(self, block: Element, cut: set[int]) -> list[Edit]:
        """Return edits of an rdf:Description that cut the elements with these ids, or all of it if nothing is left."""
        gone = [one for one in block.children if id(one) in cut or one.name[0] == OURS]
        attributes = [one for one in block.attributes if one.name[0] == OURS]
        if (gone or attributes) and len(gone) == len(block.children) and not _values(block):
            return [self.whole(block)]
        gone += [item for one in block.children for bag in one.children for item in bag.children if id(item) in cut]
        attributes += [one for one in block.attributes if _declares_ours(one)]
        return [*map(self.whole, gone), *((one.start, one.end, b"") for one in attributes)]

    def whole(self, element: Element) -> Edit:
        """Return an edit that cuts an element with its leading white space, as it was inserted."""
        return self.tree.space_before(element.start), element.end, b""


def _may_hold_keywords(opened: Sequence[Element]) -> bool:
    """Return whether the last of these nested elements may contain, or be part of, a list of keywords.

    Other elements (edit histories, masks) are not kept, since they can be large.
    """
    rdf = next((depth for depth, element in enumerate(opened[:2]) if element.name == (RDF, "RDF")), 1)
    below = opened[rdf + 1 :]  # a block, a property, its container, ...
    return len(below) < 2 or below[1].name in _KEPT


_KEPT = {name for each in _LISTS for name in (each.name, (OURS, each.record))}


def _closed_again(xml: bytes) -> bytes:
    """Make rdf:RDF self-closed if it is empty."""
    rdf = _Packet(xml).rdf
    return xml if rdf.inside < rdf.inside_end else edited(xml, [(rdf.inside - 1, rdf.end, b"/>")])


def _values(block: Element) -> list[str]:
    """Return the attributes of a block with user data: neither rdf:about nor ours."""
    return [one.name[1] for one in block.own_attributes() if one.name != (RDF, "about") and one.name[0] != OURS]


def _declares_ours(attribute: Attribute) -> bool:
    return attribute.name[0] == XMLNS and attribute.value == OURS


def _items(element: Element) -> list[Element]:
    """Return the items of the rdf:Bag, rdf:Seq or rdf:Alt in a property.

    Raises:
        SidecarError: it contains text instead.
    """
    if element.text.strip() or any(one.name not in _CONTAINERS for one in element.children):
        raise SidecarError(f"its {element.name[1]} is not a list of keywords (rdf:Bag): left as it is")
    return [item for container in element.children for item in container.children]


def _text_of(item: Element) -> str:
    """Return the text of a list item, from its rdf:value if it is qualified."""
    for element in (item, *(one for one in item.children if one.name == (RDF, "Description"))):
        values = [one.value for one in element.attributes if one.name == _VALUE]
        values += [one.text for one in element.children if one.name == _VALUE]
        if values:
            return values[0]
    return item.text


_CONTAINERS = {(RDF, kind) for kind in ("Bag", "Seq", "Alt")}


def _wanted(bare: _Packet, keywords: Iterable[str], parents: Parents) -> _Words:
    """Return the keywords to add to each list of a sidecar without our additions.

    Args:
        parents: parents of a keyword, most general first.
    """
    of_user = bare.words(_SUBJECT)
    new = without_known(keywords, of_user)
    if not new:
        return {}
    wanted = {_SUBJECT.local: new}
    for each in _PATHS:
        there = [path.split(each.separator) for path in bare.words(each)]
        if there or each.always:
            flat = new if there else [*filter(str.strip, of_user), *new]
            levels = (level for path in there for level in path)
            paths = {_level(word, each): [*parents.get(word, ()), word] for word in flat}
            words = without_known(paths, levels)
            wanted[each.local] = [_path(paths[word], each) for word in dict.fromkeys(words)]
    return {name: words for name, words in wanted.items() if words}


def _level(word: str, each: _List) -> str:
    """Return a keyword as one level of a hierarchical keyword."""
    return word.replace(each.separator or "", " ")


def _path(levels: Iterable[str], each: _List) -> str:
    return (each.separator or "").join(_level(word, each) for word in levels)


def _same(wanted: _Words, recorded: _Words) -> bool:
    """Compare regardless of order: slightly different scores are no reason to write."""
    return {name: set(words) for name, words in wanted.items()} == {
        name: set(words) for name, words in recorded.items()
    }


def _with_keywords(xml: bytes, wanted: _Words, notes: AbstractSet[str]) -> bytes:
    """Add keywords, and the record of them, to a sidecar without our additions."""
    packet = _Packet(xml)
    edits: list[Edit] = []
    block: list[_NewList] = []
    for each in _LISTS:
        words = wanted.get(each.local)
        if not words:
            continue
        filled = [items for element in packet.properties(each.name) if (items := _items(element))]
        if filled:
            edits.append(_added_items(packet.tree, filled[0], words))
        else:
            edits += [packet.whole(element) for element in packet.properties(each.name)]  # an empty list
            block.append((each.prefix, each.local, words))
    block += [(_PREFIX, each.record, wanted[each.local]) for each in _LISTS if each.local in wanted]
    notes = notes | {_OPENED} if packet.rdf.empty else notes
    return edited(xml, [*edits, _added_block(packet, block, notes)])


def _added_items(tree: XmlTree, there: Sequence[Element], words: Iterable[str]) -> Edit:
    """Return an edit that appends items to a list, formatted, indented and numbered like its last one."""
    last = there[-1]
    space, name = tree.xml[tree.space_before(last.start) : last.start], last.raw_name.decode()
    numbers = [int(found[1]) for item in there if item.name[0] == RDF and (found := _NUMBERED.fullmatch(item.name[1]))]
    stem = name.rpartition("_")[0] if last.name[0] == RDF and _NUMBERED.fullmatch(last.name[1]) else None
    names = (name if stem is None else f"{stem}_{number}" for number in count(max(numbers, default=0) + 1))
    items = (f"<{name}>{escape(word)}</{name}>".encode() for word, name in zip(words, names))  # noqa: B905
    return last.end, last.end, b"".join(space + item for item in items)


_NUMBERED = re.compile(r"_([1-9]\d{0,8})")  # members of a container: rdf:_1, rdf:_2, ...


#: (prefix, name, words)
_NewList = tuple[str, str, Sequence[str]]


def _added_block(packet: _Packet, lists: Sequence[_NewList], notes: AbstractSet[str]) -> Edit:
    """Return a new rdf:Description at the end of rdf:RDF, indented like the last one."""
    rdf, xml = packet.rdf, packet.tree.xml
    space = b"\n  "
    if rdf.children:
        start = rdf.children[-1].start
        space = xml[packet.tree.space_before(start) : start]
    content = space + _block(rdf, lists, notes, space).encode()
    if rdf.empty:
        slash = xml.rindex(b"/", rdf.start, rdf.end)
        return slash, rdf.end, b">" + content + b"</" + rdf.raw_name + b">"
    end = rdf.children[-1].end if rdf.children else rdf.inside
    return end, end, content


def _block(rdf: Element, lists: Sequence[_NewList], notes: AbstractSet[str], space: bytes) -> str:
    """Format a block; lines start like the last line of ``space``, or everything is on one line without line breaks."""
    found = re.search(rb"\r?\n[ \t]*\Z", space)
    line = found[0].decode() if found else ""
    prefix = rdf.raw_name.rpartition(b":")[0].decode()
    r = f"{prefix}:" if prefix else ""  # the prefix of rdf's elements; an attribute always needs one
    about = f"{r or 'rdf:'}about={quoteattr(_about(rdf))}" + ("" if prefix else f' xmlns:rdf="{RDF}"')
    namespaces = {each.prefix: each.namespace for each in _LISTS} | {_PREFIX: OURS}
    attributes = [f'xmlns:{own}="{namespaces[own]}"' for own in dict.fromkeys(own for own, _, _ in lists)]
    attributes += [f'{_PREFIX}:{note}="True"' for note in sorted(notes)]
    between = f"{line}  " if line else " "
    text = f"<{r}Description {about}" + "".join(between + attribute for attribute in attributes) + ">"
    in_1, in_2, in_3 = (line and line + " " * depth for depth in (1, 2, 3))
    for own, name, words in lists:
        kind = "Seq" if name == "TagsList" else "Bag"
        items = "".join(f"{in_3}<{r}li>{escape(word)}</{r}li>" for word in words)
        text += f"{in_1}<{own}:{name}>{in_2}<{r}{kind}>{items}{in_2}</{r}{kind}>{in_1}</{own}:{name}>"
    return text + f"{line}</{r}Description>"


def _about(rdf: Element) -> str:
    """Return the rdf:about value, which XMP requires to be the same in all blocks."""
    named = (one.value for block in rdf.children for one in block.attributes if one.name == (RDF, "about"))
    return next(named, "")
