"""CPU seconds and peak memory of searching 100,000 photos, and 1,000,000, before and after a change.

    python -m benchmarks.search_scale --photos FOLDER --work FOLDER [--before CLONE] [--million]

``--photos`` has a few hundred real photos. Each photo of the index has the scores of two of them, mixed and with
noise, and the tokens of one of the two, rescaled. The files themselves have a few bytes and are never opened.
``--before`` is a clone of an earlier commit, which makes and reads an index of its own; commands of the two take
turns, and what counts is the median of each. CPU seconds, as other programs share the machine; start and imports are
part of them. ``--million`` makes 1,000,000 photos without files and with tokens of zeros (5 GB), and only searches.
Making takes ten minutes; indexes that are there already are used.
"""

from __future__ import annotations

import argparse
import os
import sys
import zlib
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.common import ROOT, write_result
from zsl_tagger.images.finding import find_images
from zsl_tagger.search.library import Library
from zsl_tagger.search.packing import pack_classes, pack_logits
from zsl_tagger.search.store import INDEX_FILE, Store
from zsl_tagger.tagging.pooled import pooled_tokens

PHOTOS, MILLION, REAL, AT_ONCE = 100_000, 1_000_000, 400, 1000
SEARCHES = {"a word of the vocabulary": "dog", "another phrase": "red bicycle"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--million", action="store_true")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)  # in a process of the code that is to make it
    arguments = parser.parse_args()
    arguments.work = arguments.work.absolute()
    if arguments.make:
        make(arguments.make, arguments.photos, arguments.work)
        return
    clones = {"before": arguments.before, "after": ROOT} if arguments.before else {"after": ROOT}
    if arguments.million:
        clones = {"after": ROOT}
    folder = {name: arguments.work / ("million" if arguments.million else name) for name in clones}
    for name, clone in clones.items():
        if not (folder[name] / INDEX_FILE).exists():
            own = ["--make", str(folder[name]), "--photos", str(arguments.photos), "--work", str(arguments.work)]
            run(clone, [str(Path(__file__)), *own])
    commands = {what: ["search", query, "--format", "jsonl"] for what, query in SEARCHES.items()}
    if not arguments.million:
        commands["index again, nothing new"] = ["index"]
    figures: dict[str, object] = {
        "photos": MILLION if arguments.million else PHOTOS,
        "turns": arguments.turns,
        "bytes a photo": {
            name: round((own / INDEX_FILE).stat().st_size / (MILLION if arguments.million else PHOTOS))
            for name, own in folder.items()
        },
    }
    for what, command in commands.items():
        measured: dict[str, list[tuple[float, float]]] = {name: [] for name in clones}
        for _ in range(arguments.turns):
            for name, clone in clones.items():
                measured[name].append(run(clone, ["cli.py", *command, "--index", str(folder[name])]))
        figures[what] = {
            name: {
                "CPU s, median": round(median(seconds for seconds, _ in own), 2),
                "CPU s, all": [round(seconds, 2) for seconds, _ in own],
                "peak memory, MB": round(max(memory for _, memory in own)),
            }
            for name, own in measured.items()
        }
    write_result("search_million" if arguments.million else "search_scale", figures)


def run(clone: Path, arguments: list[str]) -> tuple[float, float]:
    """Return the CPU seconds and the peak memory in MB of a Python program of a clone."""
    process = os.posix_spawn(
        sys.executable,
        [sys.executable, *arguments]
        if arguments[0] != "cli.py"
        else [sys.executable, str(clone / "cli.py"), *arguments[1:]],
        dict(os.environ, PYTHONPATH=str(clone.absolute())),
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    _, status, usage = os.wait4(process, 0)
    if status:
        raise SystemExit(f"{' '.join(arguments)} ended with status {status}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def make(folder: Path, photos: Path, work: Path) -> None:
    """Make an index of mixed photos."""
    million = folder.name == "million"
    folder.mkdir(parents=True, exist_ok=True)
    with Library.open(folder) as library:
        meta = library._meta
        found = [path for path in find_images([str(photos)]) if isinstance(path, str)]
        encoded = [library.tagger.encode(path) for path in found[:: max(1, len(found) // REAL)]]
        labels = library.tagger.plain_label_set(meta.labels)
        logits = np.concatenate([library.tagger.logits(one, labels) for one in encoded])  # (n, V)
    classes = np.concatenate([one.classes for one in encoded if one.classes is not None])  # (n, C)
    pooled = np.concatenate([pooled_tokens(one.tokens) for one in encoded])  # (n, 2 D)
    levels = [in_levels(one.tokens[0]) for one in encoded]
    nothing = levels[0][0] + zlib.compress(bytes(len(levels[0][3]) + levels[0][1].nbytes + levels[0][2].nbytes), 1)
    random = np.random.default_rng(0)
    with Store(folder, meta) as store:
        store._database.execute("PRAGMA synchronous = OFF")
        if not million:
            store.add_root(str(work / "photos"))
        for start in range(0, MILLION if million else PHOTOS, AT_ONCE):
            one, other = random.integers(len(encoded), size=(2, AT_ONCE))
            share = (0.6 + 0.4 * random.random((AT_ONCE, 1))).astype(np.float32)

            def mixed(of: np.ndarray, noise: float, one: np.ndarray = one, other: np.ndarray = other,
                      share: np.ndarray = share) -> np.ndarray:  # fmt: skip
                spread = noise * random.standard_normal((AT_ONCE, of.shape[1]), np.float32)
                return share * of[one] + (1 - share) * of[other] + spread

            own, seen = mixed(logits, 0.05), np.clip(mixed(classes, 0), 0, 1)
            pools = np.maximum(mixed(pooled, 0.12 * float(pooled.std())), 0)
            strengths = (0.8 + 0.4 * random.random(AT_ONCE)).astype(np.float32)
            with store.transaction():
                for place, strength in enumerate(strengths):
                    content = start + place + 1
                    tokens = nothing if million else stronger(levels[one[place]], strength)
                    scores = pack_logits(own[place]), pack_classes(seen[place]), pack_logits(pools[place])
                    number = store.add_content(f"{content:064x}", tokens, *scores)
                    path = work / "photos" / f"{content // 500:04d}" / f"IMG_{content:07d}.jpg"
                    size, time = (1000, content) if million else written(path)
                    store._database.execute(
                        "INSERT INTO photos VALUES (?, ?, ?, ?)", (os.fsencode(path), size, time, number)
                    )
            if hasattr(store, "arrange"):  # an earlier version has none
                with store.transaction():
                    store.arrange()


Levels = tuple[bytes, np.ndarray, np.ndarray, bytes]


def in_levels(tokens: np.ndarray) -> Levels:
    """Return what :func:`pack_tokens` makes of tokens ``(L, D)``, before zlib: shape, lows, steps, levels."""
    low = tokens.min(axis=1).astype("<f4")
    step = np.maximum((tokens.max(axis=1) - low) / 255, 1e-9).astype("<f4")
    values = np.clip(np.rint((tokens - low[:, None]) / step[:, None]), 0, 255).astype(np.uint8)
    return np.array(tokens.shape, "<u4").tobytes(), low, step, values.T.tobytes()


def stronger(levels: Levels, strength: np.float32) -> bytes:
    shape, low, step, values = levels
    return shape + zlib.compress((low * strength).tobytes() + (step * strength).tobytes() + values, 1)


def written(path: Path) -> tuple[int, int]:
    """Make a file of a few bytes, if it is not there, and return its size and time."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(path.name.encode())
    return path.stat().st_size, path.stat().st_mtime_ns


if __name__ == "__main__":
    main()
