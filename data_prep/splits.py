"""Draw unseen labels and splits by hashing names, independently of their order."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from zsl_tagger.errors import UserError
from zsl_tagger.words.label_lists import split_labels
from zsl_tagger.words.spelling import normalize_label, plural_forms, singular_forms


def draw(name: str, seed: int) -> float:
    """Return a number in 0..1 that depends only on the name and the seed."""
    digest = hashlib.sha256(f"{seed}:{name}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def choose_unseen(unseen: str, labels: Sequence[str], seed: int) -> list[str]:
    """Return the unseen labels that ``--unseen`` names or draws.

    Args:
        unseen: names separated by commas, a number of labels ("20") or a share of them ("25%"); "" for none.

    Raises:
        UserError: a name is not a label, or no seen label is left.
    """
    unseen = unseen.strip()
    number = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?(%?)", unseen)
    if number and unseen not in labels and (number[2] or "." not in unseen):
        count = round(len(labels) * min(float(number[1]), 1e6) / 100) if number[2] else int(number[1])
        chosen = sorted(labels, key=lambda label: draw(label, seed))[:count]
        if count > len(labels):
            raise UserError(f"expected --unseen of at most {len(labels)} labels, got {count}")
        if not count and float(number[1]):
            raise UserError(f"expected --unseen to select a label; {unseen} of {len(labels)} labels selects none")
    else:
        by_key: dict[str, list[str]] = defaultdict(list)
        for label in labels:
            by_key[normalize_label(label)].append(label)
        names = split_labels(unseen, labels)
        unknown = [name for name in names if name not in labels and normalize_label(name) not in by_key]
        if unknown:
            raise UserError(f"--unseen has names that are not labels of this data: {', '.join(map(repr, unknown))}")
        chosen = [label for name in names for label in ([name] if name in labels else by_key[normalize_label(name)])]
    if len(set(chosen)) >= len(labels):
        raise UserError(f"expected --unseen to leave seen labels, got all {len(labels)} labels")
    return sorted(set(chosen))


def cut(keys: Iterable[str], shares: dict[str, float], seed: int) -> np.ndarray:
    """Return a split for each of N keys: the given shares, in the order of their draws, and "train" for the rest.

    Equal keys (near-duplicate images) go to the same split; a group that exceeds the remaining size of a split stays in
    train. A split with a share above 0 gets at least one group while there are enough.

    Args:
        shares: {split: 0..1}.

    Returns:
        ``(N,)`` of split names.
    """
    keys = list(keys)
    members: dict[str, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        members[key].append(index)
    groups = sorted(members, key=lambda key: draw(key, seed), reverse=True)
    splits = np.full(len(keys), "train", "<U5")
    for split, share in shares.items():
        wanted = max(round(share * len(keys)), 1 if share else 0)
        room = wanted
        left: list[str] = []
        for place, key in enumerate(groups):
            others = len(left) + len(groups) - place - 1
            if others and len(members[key]) <= room:
                splits[members[key]] = split
                room -= len(members[key])
            else:
                left.append(key)
        if wanted and room == wanted and len(left) > 1:  # all groups are larger than the remaining size
            smallest = min(left, key=lambda key: len(members[key]))
            splits[members[smallest]] = split
            left.remove(smallest)
        groups = left
    return splits


def keep_per_class(classes: Sequence[str], keys: Iterable[str], count: int, seed: int) -> np.ndarray:
    """Return a mask, bool ``(N,)``, of the ``count`` images of each class with the smallest draws."""
    draws = [draw(key, seed) for key in keys]
    members: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(classes):
        members[name].append(index)
    keep = np.zeros(len(classes), bool)
    for indices in members.values():
        keep[sorted(indices, key=draws.__getitem__)[:count]] = True
    return keep


def twins(seen: Iterable[str], unseen: Iterable[str]) -> list[tuple[str, str]]:
    """Return (seen, unseen) pairs that are singular and plural of a noun, or two spellings of a name."""
    by_key: dict[str, list[str]] = defaultdict(list)
    for label in seen:
        by_key[normalize_label(label)].append(label)
    pairs = set()
    for label in unseen:
        key = normalize_label(label)
        for form in (key, *singular_forms(key), *plural_forms(key)):
            pairs |= {(other, label) for other in by_key.get(form, ())}
    return sorted(pairs)
