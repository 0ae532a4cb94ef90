"""Check once whether each image is readable for training, and find near-duplicates.

Results are appended to ``images.jsonl``, one line per image, a few hundred at a time. An interrupted run resumes after
the last complete line; only files that have changed since, or could not be used, are read again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from zsl_tagger.errors import UserError, require
from zsl_tagger.images.preprocessing import ImageError, Preprocessing, load_array
from zsl_tagger.system.files import open_unlinked, parse_json
from zsl_tagger.system.progress import Progress
from zsl_tagger.system.threads import map_in_order

JOURNAL_FILE = "images.jsonl"

#: Images whose perceptual hashes (64 bits) differ in at most this many bits are near-duplicates. Pairs among 9,081
#: photos (Caltech-101, scenes, ImageNet), inspected by eye: at 4 bits, 23 of 26 show the same picture; at 6 bits,
#: about two in three; at 8 bits, one in three.
MAX_DISTANCE = 4

MISSING = "missing"
PLACEHOLDER = "photo-unavailable placeholder"

#: SHA-256 of the placeholder that LESA's published code tests for byte by byte.
PLACEHOLDER_SHA256 = frozenset({"e29a55808b2b6bb0681116206863eda419e5012384ed75bda880bf87e440676f"})

#: A file that occurs under this many names is also a placeholder, since hosts change their placeholder images.
PLACEHOLDER_COPIES = 10

_SIDE = 64  # size of the reduced image that is decoded to test and hash a file


@dataclass(frozen=True)
class Look:
    """Result of checking one file.

    Attributes:
        path: relative to the image root.
        size, changed: bytes and time (ns) of the file; -1 if it does not exist.
        problem: why the file cannot be used; None if it can.
        sha256: hash of the file; "" if it could not be read.
        phash: perceptual hash, 16 hexadecimal digits; "" if there is a problem.
    """

    path: str
    size: int = -1
    changed: int = -1
    problem: str | None = None
    sha256: str = ""
    phash: str = ""

    def __post_init__(self) -> None:
        texts, numbers = (self.path, self.sha256, self.phash, self.problem or ""), (self.size, self.changed)
        if not all(isinstance(t, str) for t in texts) or not all(isinstance(n, int) for n in numbers):
            raise TypeError("expected strings and whole numbers")
        if not re.fullmatch(r"([0-9a-f]{16})?", self.phash):
            raise ValueError(f"expected 16 hexadecimal digits, got {self.phash!r}")


def look_at_images(paths: Sequence[str], root: Path, journal: Path, workers: int) -> dict[str, Look]:
    """Check every image, except those that the journal already covers.

    Raises:
        UserError: the journal cannot be written (e.g. the disk is full); its content remains valid.
    """
    looks: dict[str, Look] = {}
    try:
        known = _read_journal(journal)
        with open_unlinked(journal, "a", encoding="utf-8") as file, Progress("looking at", len(paths)) as progress:
            found = map_in_order(lambda path: _look(root, path, known.get(path)), paths, workers)
            for look in progress.over(found):
                looks[look.path] = look
                if known.get(look.path) != look:
                    file.write(json.dumps(asdict(look)) + "\n")
                if len(looks) % 256 == 0:
                    file.flush()
    except OSError as error:
        raise UserError(
            f"cannot write {journal}: {error.strerror}. Images checked so far are saved: fix the problem, then "
            "run the same command again to continue where it stopped"
        ) from None
    return looks


def _read_journal(path: Path) -> dict[str, Look]:
    """Read the complete lines of the journal; remove a truncated last line so that the next one starts a new line."""
    if not path.exists():
        return {}
    with open_unlinked(path, "rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        file.truncate(whole)
    looks: dict[str, Look] = {}
    for number, line in enumerate(content[:whole].splitlines(), start=1):
        try:
            look = Look(**parse_json(line))
        except (ValueError, TypeError, RecursionError):
            raise UserError(
                f"{path}:{number}: is not a line written by prepare: delete the file to start over"
            ) from None
        looks[look.path] = look
    return looks


def _look(root: Path, path: str, known: Look | None) -> Look:
    try:
        status = (root / path).stat()
    except (OSError, ValueError):
        return Look(path, problem=MISSING)
    # A recorded problem is checked again: it may have been temporary, such as a missing disk or permission.
    if known and known.problem is None and (known.size, known.changed) == (status.st_size, status.st_mtime_ns):
        return known
    try:
        pixels = load_array(root / path, Preprocessing(_SIDE))  # (64, 64, 3), as in training
        sha256 = hashlib.sha256((root / path).read_bytes()).hexdigest()
    except (ImageError, OSError) as error:
        return Look(path, status.st_size, status.st_mtime_ns, str(error))
    except MemoryError:
        return Look(path, status.st_size, status.st_mtime_ns, "needs more memory than is available")
    return Look(path, status.st_size, status.st_mtime_ns, None, sha256, _perceptual_hash(pixels))


def _perceptual_hash(pixels: np.ndarray) -> str:
    require("imagehash", "train")
    import imagehash

    return str(imagehash.phash(Image.fromarray(pixels)))


def find_placeholders(looks: Iterable[Look]) -> set[str]:
    """Return the paths of placeholder images for photos that are no longer available."""
    whole = [look for look in looks if look.problem is None]
    copies = Counter(look.sha256 for look in whole)
    return {
        look.path for look in whole if look.sha256 in PLACEHOLDER_SHA256 or copies[look.sha256] >= PLACEHOLDER_COPIES
    }


def reason(problem: str) -> str:
    """Return the message without details, as the category under which the problem is counted."""
    return problem.partition(" (")[0].partition(":")[0]


# --- near-duplicates ----------------------------------------------------------------------------------------


def near_duplicates(hashes: Sequence[str], max_distance: int = MAX_DISTANCE) -> np.ndarray:
    """Return pairs of images whose hashes differ in at most ``max_distance`` bits.

    Two 64-bit hashes that differ in at most d bits agree in at least one of d + 1 bands of bits, so only images that
    share a band are compared.

    Args:
        hashes: N hashes of 16 hexadecimal digits; "" never matches.

    Returns:
        int64 ``(pairs, 3)``: two indices, smaller first, and their distance; sorted. For n images with equal hashes,
        n - 1 pairs are returned, each with the first of these images.
    """
    values, first, groups = _unique_hashes(hashes)
    same = [(first[group], index, 0) for index, group in groups if first[group] != index]
    near = [(*sorted((first[i], first[j])), distance) for i, j, distance in _close_pairs(values, max_distance)]
    return np.array(sorted(same + near), np.int64).reshape(-1, 3)


def _unique_hashes(hashes: Sequence[str]) -> tuple[np.ndarray, list[int], list[tuple[int, int]]]:
    """Return distinct hashes (uint64), the first image of each, and (image, hash index) for every hashed image."""
    number: dict[str, int] = {}
    first, groups = [], []
    for index, text in enumerate(hashes):
        if text:
            if text not in number:
                number[text] = len(number)
                first.append(index)
            groups.append((index, number[text]))
    return np.array([int(text, 16) for text in number], np.uint64), first, groups


def _close_pairs(values: np.ndarray, max_distance: int) -> Iterator[tuple[int, int, int]]:
    """Yield (i, j, distance) for distinct hashes ``(n,)`` uint64, each pair once."""
    edges = np.linspace(0, 64, max_distance + 2).astype(int)
    done: set[tuple[int, int]] = set()
    for low, high in pairwise(edges):
        band = (values >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)  # (n,)
        order = np.argsort(band, kind="stable")
        starts = np.flatnonzero(np.diff(band[order], prepend=band[order][:1] + np.uint64(1)))
        for members in np.split(order, starts[1:]):
            for position, i in enumerate(members[:-1]):
                others = members[position + 1 :]
                distances = _bit_count(values[others] ^ values[i])
                for at in np.flatnonzero(distances <= max_distance):
                    pair = (int(i), int(others[at]))  # in order, since argsort is stable
                    if pair not in done:
                        done.add(pair)
                        yield (*pair, int(distances[at]))


def _bit_count(values: np.ndarray) -> np.ndarray:
    """Count the set bits of uint64 values ``(n,)``."""
    return np.unpackbits(np.ascontiguousarray(values).view(np.uint8).reshape(-1, 8), axis=1).sum(axis=1, dtype=np.int64)
