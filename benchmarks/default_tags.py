"""Measure precision and recall of the default tags (no options), judged by eye.

    python -m benchmarks.default_tags --coco DIR [--model FOLDER]

DIR is as for ``benchmarks.tagging_accuracy``. Two files in ``benchmarks/judgements/`` contain the truth;
``benchmarks/README.md`` describes how they were made:

``coco100_named.csv``     ``photo,subject,named``: what a careful person would name, written before any prediction was
                          seen, and the main subject with its other names after ``|``
``coco100_verdicts.csv``  ``photo,tag,verdict``: whether each tag that a system proposed is true (``t``), true
                          but useless (``u``) or false (``f``)

Precision is the share of the printed tags that are true and useful. A named word is found if it is printed, or a tag
that implies it (a synonym, or a child such as "puppy" of "dog"). Tags without a verdict are counted separately and
excluded from all other figures. Intervals are 95 %, over resampled photos.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.common import ROOT, write_result
from zsl_tagger.tagging.model_folder import ModelFolder
from zsl_tagger.tagging.tagger import Tagger

JUDGEMENTS = ROOT / "benchmarks" / "judgements"
FIRST = 5  # number of best tags whose precision is also reported
RESAMPLES = 1000

VERDICTS = ("t", "u", "f")

LISTED = 40  # number of photos in the list
LIST = """# What `tag` prints, on 40 photos

The first 40 photos of coco100 by their number in COCO 2017 (we may not publish the photos), with the main subject
according to a careful person and the packaged model's default tags, best first. Wrong tags are ~~struck out~~, useless
tags are (in brackets), and tags that have not been judged have a question mark. Written by
`python -m benchmarks.default_tags --list`.

| COCO photo | main subject | tags |
|---|---|---|
"""


@dataclass(frozen=True)
class Judged:
    """Printed tags of one photo.

    Attributes:
        verdicts: verdict of each printed tag, best first; "" without a verdict.
        named: whether each word that a person would name was found.
        subject: whether the main subject was found.
    """

    verdicts: list[str]
    named: list[bool]
    subject: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--name", default="default_tags")
    parser.add_argument("--list", type=Path, help="Write photos with their tags and verdicts to this Markdown file.")
    parser.add_argument("--unjudged", type=Path, help="Write photos with tags that have no verdict to this file.")
    arguments = parser.parse_args()
    photos = {path.name: path for path in arguments.coco.rglob("*.jpg")}
    named, verdicts = read_named(), read_verdicts()
    tagger = Tagger(arguments.model)
    says = implied_words()
    judged, unjudged, lines = [], [], []
    for name, (subjects, words) in sorted(named.items()):
        tags = [tag.label for tag in tagger.tag(photos[name])]
        judged.append(judge(tags, words, subjects, verdicts.get(name, {}), says))
        lines.append(listed(name, subjects[0], tags, judged[-1]))
        unjudged += [(name, tag) for tag in tags if tag not in verdicts.get(name, {})]
    if arguments.unjudged:
        with arguments.unjudged.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("photo", "tag"), *unjudged])
    if arguments.list:
        arguments.list.write_text(LIST + "\n".join(lines[:LISTED]) + "\n", encoding="utf-8")
    write_result(arguments.name, figures(judged))


def listed(name: str, subject: str, tags: list[str], judged: Judged) -> str:
    """Format one photo as a line of Markdown: false tags struck out, useless ones in brackets."""
    marks = {"t": "{}", "u": "({})", "f": "~~{}~~", "": "{}?"}
    shown = ", ".join(marks[verdict].format(tag) for tag, verdict in zip(tags, judged.verdicts, strict=True))
    return f"| {Path(name).stem.lstrip('0')} | {subject} | {shown} |"


def read_named() -> dict[str, tuple[list[str], list[str]]]:
    """Return {photo: names of its main subject, and words that a person would name}."""
    with (JUDGEMENTS / "coco100_named.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {row["photo"]: (row["subject"].split("|"), row["named"].split(", ")) for row in rows}


def read_verdicts() -> dict[str, dict[str, str]]:
    """Return {photo: {tag: verdict}}."""
    verdicts: dict[str, dict[str, str]] = {}
    with (JUDGEMENTS / "coco100_verdicts.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            verdicts.setdefault(row["photo"], {})[row["tag"]] = row["verdict"]
    return verdicts


def implied_words() -> dict[str, set[str]]:
    """Return {label: labels that it implies}, from the packaged model for any measured model."""
    return {label.name: {label.name, *label.implies} for label in ModelFolder().labels()}


def judge(
    tags: list[str], words: list[str], subjects: list[str], verdicts: dict[str, str], says: dict[str, set[str]]
) -> Judged:
    """Compare the tags of one photo with its judgement."""
    said = set().union(*(says.get(tag, {tag}) for tag in tags))
    return Judged(
        [verdicts.get(tag, "") for tag in tags],
        [word in said for word in words],
        any(name in said for name in subjects),
    )


def figures(judged: list[Judged]) -> dict[str, object]:
    """Return percentages with their intervals."""
    measures: dict[str, Callable[[list[Judged]], float]] = {
        "precision": precision,
        "useless": lambda rows: share(rows, "u"),
        "false": lambda rows: share(rows, "f"),
        "recall of the named": recall,
        "F1": lambda rows: 2 * precision(rows) * recall(rows) / max(precision(rows) + recall(rows), 1e-9),
        f"precision of the first {FIRST}": lambda rows: share(rows, "t", FIRST),
        "main subject found": lambda rows: float(np.mean([row.subject for row in rows])),
    }
    random = np.random.default_rng(0)
    drawn = [random.integers(0, len(judged), len(judged)) for _ in range(RESAMPLES)]
    found: dict[str, object] = {"photos": len(judged), "tags": sum(len(row.verdicts) for row in judged)}
    found["tags a photo"] = round(float(np.mean([len(row.verdicts) for row in judged])), 1)
    found["tags without a verdict"] = sum(row.verdicts.count("") for row in judged)
    for name, measure in measures.items():
        values = [measure([judged[index] for index in rows.tolist()]) for rows in drawn]
        low, high = np.percentile(values, [2.5, 97.5])
        found[name] = {"%": percent(measure(judged)), "low": percent(low), "high": percent(high)}
    return found


def share(rows: list[Judged], verdict: str, first: int | None = None) -> float:
    """Return the share of judged tags, among each photo's ``first`` ones, that have a given verdict."""
    counts = [[row.verdicts[:first].count(one) for one in VERDICTS] for row in rows]
    total = np.sum(counts, axis=0)
    return float(total[VERDICTS.index(verdict)] / max(total.sum(), 1))


def precision(rows: list[Judged]) -> float:
    return share(rows, "t")


def recall(rows: list[Judged]) -> float:
    found = [one for row in rows for one in row.named]
    return float(np.mean(found))


def percent(value: float) -> float:
    return round(100 * float(value), 1)


if __name__ == "__main__":
    main()
