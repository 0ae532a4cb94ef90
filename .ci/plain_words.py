"""Check docstrings, comments and Markdown for unusual idioms: ``python .ci/plain_words.py FOLDER_OR_FILE...``.

Prints ``file:line: phrase`` and exits with status 1 if there are any. Code in Markdown is not checked.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

#: Phrases that are correct English but that nobody would use here, with a plain replacement for the message.
BANNED = {
    r"\banew\b": "again",
    r"\bso many\b(?! [a-z]+ [^.]*that\b)": "this many, or a number",
    r"\bthe same but\b": "like ..., except",
    r"\bwhat became of\b": "the result of",
    r"\b(goes|go|went|gone|going) on with\b": "continues",
    r"\bthat is told\b|\bare told\b|\bis told\b": "is reported",
    r"\bshall (be|have|not|say|see)\b": "must",
    r"\bfor want of\b": "for lack of",
    r"\bas ever\b": "as usual",
    r"\blooked at at\b": "processed",
    r"\bheld against\b": "compared with",
    r"\bthe very (same|vector|figures|images)\b": "the same",
}
#: A docstring that starts with a relative clause instead of a verb or a noun.
NOUN_CLAUSE = re.compile(r"\s*(What|Where|Whether|How|Of|Those|Which|That)\b(?! to\b)")


def main() -> int:
    """Check the paths of the command line; return the exit status."""
    faults = [fault for path in files(sys.argv[1:]) for fault in check(path)]
    print(*faults, sep="\n", end="\n" if faults else "")
    return 1 if faults else 0


def files(paths: list[str]) -> Iterator[Path]:
    """Yield the given files, and the Python and Markdown files of the given folders."""
    for path in map(Path, paths):
        yield from sorted(p for p in path.rglob("*") if p.suffix in (".py", ".md")) if path.is_dir() else [path]


def check(path: Path) -> Iterator[str]:
    """Yield a line ``file:line: problem`` for each banned phrase of a file."""
    source = path.read_text(encoding="utf-8")
    written = [] if path.suffix == ".md" else list(docstrings(source))
    for line, text in markdown(source) if path.suffix == ".md" else python(source, written):
        for pattern, instead in BANNED.items():
            if found := re.search(pattern, text, re.IGNORECASE):
                yield f"{path}:{line}: {found[0]!r}: write {instead!r}"
    for text, line in written:
        if NOUN_CLAUSE.match(text):
            yield f"{path}:{line}: a docstring begins with a clause, {text.split()[0]!r}: begin with a verb or a noun"


def markdown(source: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a page with their numbers, without code."""
    in_code = False
    for number, line in enumerate(source.splitlines(), 1):
        if line.startswith("```"):
            in_code = not in_code
        elif not in_code:
            yield number, re.sub("`[^`]*`", "", line)


def python(source: str, written: list[tuple[str, int]]) -> Iterator[tuple[int, str]]:
    """Yield the comments of a file, and the lines of its docstrings ``written``, with their numbers."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for text, first in written:
        yield from enumerate(text.splitlines(), first)


def docstrings(source: str) -> Iterator[tuple[str, int]]:
    """Yield each docstring with the number of its first line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value, node.lineno


if __name__ == "__main__":
    sys.exit(main())
