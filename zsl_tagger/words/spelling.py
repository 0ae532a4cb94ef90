"""English spelling: the normal form of a label, singulars and plurals."""

from __future__ import annotations

import re
import unicodedata

_IRREGULAR = {
    "men": "man", "women": "woman", "people": "person", "children": "child", "feet": "foot", "teeth": "tooth",
    "geese": "goose", "mice": "mouse", "oxen": "ox", "leaves": "leaf", "knives": "knife", "wolves": "wolf",
    "loaves": "loaf", "shelves": "shelf", "wives": "wife", "lives": "life", "calves": "calf", "halves": "half",
    "scarves": "scarf", "hooves": "hoof", "elves": "elf", "thieves": "thief", "cacti": "cactus", "fungi": "fungus",
    "dice": "die",
}  # fmt: skip


def normalize_label(label: str) -> str:
    """Return the spelling under which words are stored and looked up: ``"cafe bar"`` for ``" Café-Bar "``."""
    if label.isascii():
        return " ".join(re.sub(r"[-_/]", " ", label.lower()).split())
    text = unicodedata.normalize("NFKD", label.casefold()).casefold().replace("\u2019", "'")
    text = "".join(char for char in text if not unicodedata.combining(char))
    return " ".join(re.sub(r"[-_/]", " ", text).split())


def singular_forms(word: str) -> list[str]:
    """Return candidate singulars of an English noun, most likely first; empty if it does not look like a plural."""
    head, _, last = word.rpartition(" ")
    forms = []
    if last in _IRREGULAR:
        forms.append(_IRREGULAR[last])
    elif last.endswith("men") and len(last) > 5:
        forms.append(last[:-2] + "an")  # policemen
    elif last.endswith("ies") and len(last) > 4:
        forms += [last[:-3] + "y", last[:-1]]
    elif last.endswith(("ses", "xes", "zes", "ches", "shes", "oes")):
        forms += [last[:-2], last[:-1]]
    elif last.endswith("s") and not last.endswith(("ss", "us", "is")) and len(last) > 3:
        forms.append(last[:-1])
    return [f"{head} {form}".strip() for form in forms]


def plural_forms(word: str) -> list[str]:
    """Return plurals of a noun that :func:`singular_forms` maps back to it: "dogs" for "dog", not "bus" for "bu"."""
    head, _, last = word.rpartition(" ")
    endings = [*(plural for plural, singular in _IRREGULAR.items() if singular == last), last + "s", last + "es"]
    if last.endswith("y"):
        endings.append(last[:-1] + "ies")
    forms = [f"{head} {ending}".strip() for ending in endings]
    return [form for form in forms if word in singular_forms(form)]
