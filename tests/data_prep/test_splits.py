"""Which labels are unseen and which images train: the right number of them, whatever the order, the same every time."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from data_prep.splits import choose_unseen, cut, draw, keep_per_class, twins
from zsl_tagger.errors import UserError

LABELS = ["cat", "dog", "T-Shirt", "red car", "Café-Bar", "zebra", "owl"]


def by_hash(names: Sequence[str], seed: int) -> list[str]:
    """Distinct names in the order of the sha256 of "seed:name"."""
    return sorted(set(names), key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).hexdigest())


# --- draws ----------------------------------------------------------------------------------------------------


def test_a_draw_is_the_sha256_of_seed_and_name() -> None:
    digest = hashlib.sha256(b"7:caf\xc3\xa9").hexdigest()  # UTF-8
    assert draw("café", 7) == int(digest[:16], 16) / 2**64
    assert draw("café", 8) != draw("café", 7) != draw("cafe", 7)


def test_draws_are_spread_evenly() -> None:
    draws = np.array([draw(f"photo {number}.jpg", 3) for number in range(2003)])
    assert draws.min() >= 0
    assert draws.max() < 1
    tenths = np.bincount((draws * 10).astype(int), minlength=10)
    assert tenths.min() > 150  # of 200
    assert tenths.max() < 250


def test_a_file_name_that_is_not_utf8_has_a_draw() -> None:
    assert draw("caf\udce9.jpg", 0) == int(hashlib.sha256(b"0:caf\xe9.jpg").hexdigest()[:16], 16) / 2**64


# --- unseen labels --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("", []),
        ("  ", []),
        ("dog", ["dog"]),
        ("zebra, cat", ["cat", "zebra"]),  # sorted
        ("Dog,t shirt, RED-CAR,cafe bar", ["Café-Bar", "T-Shirt", "dog", "red car"]),  # as labels are looked up
        ("dog, Dog, dog", ["dog"]),
        (" , dog,, ", ["dog"]),
        ("0", []),
        ("0%", []),
    ],
)
def test_unseen_labels_by_name(asked: str, expected: list[str]) -> None:
    assert choose_unseen(asked, LABELS, 0) == expected
    assert choose_unseen(asked, LABELS[::-1], 5) == expected


def test_the_exact_spelling_comes_before_a_like_one() -> None:
    labels = ["Apple", "apple", "pear"]
    assert choose_unseen("apple", labels, 0) == ["apple"]
    assert choose_unseen("Apple", labels, 0) == ["Apple"]


@pytest.mark.parametrize("seed", [0, 1, 11])
@pytest.mark.parametrize(
    ("asked", "count"), [("1", 1), ("3", 3), ("6", 6), (" 3 ", 3), ("15%", 1), ("30%", 2), ("50%", 4), ("90%", 6)]
)
def test_unseen_labels_by_number_are_drawn(asked: str, count: int, seed: int) -> None:
    expected = sorted(by_hash(LABELS, seed)[:count])
    assert choose_unseen(asked, LABELS, seed) == expected
    assert choose_unseen(asked, sorted(LABELS), seed) == expected
    assert choose_unseen(asked, LABELS[::-1], seed) == expected


def test_a_share_may_have_a_point_or_a_space() -> None:
    labels = [f"label {number}" for number in range(32)]
    assert len(choose_unseen("12.5%", labels, 0)) == 4
    assert choose_unseen("25 %", labels, 0) == choose_unseen("25%", labels, 0)
    with pytest.raises(UserError, match=r"expected --unseen to select a label; 1% of 32 labels selects none"):
        choose_unseen("1%", labels, 0)


def test_a_label_that_is_a_number_is_named() -> None:
    assert choose_unseen("3", [str(digit) for digit in range(10)], 0) == ["3"]


def test_another_seed_draws_others() -> None:
    labels = [f"label {number}" for number in range(31)]
    assert len({tuple(choose_unseen("5", labels, seed)) for seed in range(10)}) == 10


@given(
    st.lists(st.from_regex(r"[^0-9]+", fullmatch=True), min_size=2, max_size=23, unique=True),
    st.randoms(),
    st.integers(0, 3),
)
def test_more_unseen_labels_keep_those_of_fewer_in_any_order(labels: list[str], random: Random, seed: int) -> None:
    chosen: set[str] = set()
    for count in range(len(labels)):
        shuffled = list(labels)
        random.shuffle(shuffled)
        more = set(choose_unseen(str(count), shuffled, seed))
        assert len(more) == count
        assert chosen <= more
        chosen = more


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("lion", "^--unseen has names that are not labels of this data: 'lion'$"),
        ("dog, lion, cat, tiger", "^--unseen has names that are not labels of this data: 'lion', 'tiger'$"),
        ("dogs", "not labels of this data: 'dogs'"),  # another label than "dog"
        ("-1", "not labels of this data: '-1'"),
        ("8", "^expected --unseen of at most 7 labels, got 8$"),
        ("150%", "^expected --unseen of at most 7 labels, got 10$"),
        ("7", "^expected --unseen to leave seen labels, got all 7 labels$"),
        ("100%", "^expected --unseen to leave seen labels, got all 7 labels$"),
        (", ".join(LABELS), "^expected --unseen to leave seen labels, got all 7 labels$"),
    ],
)
def test_unseen_labels_that_cannot_be(asked: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose_unseen(asked, LABELS, 0)


@pytest.mark.parametrize("asked", ["²", "5²%"])
def test_a_digit_that_is_no_number(asked: str) -> None:
    with pytest.raises(UserError, match=f"--unseen has names that are not labels of this data: '{asked}'"):
        choose_unseen(asked, LABELS, 0)


# --- splits ---------------------------------------------------------------------------------------------------


def slow_cut(keys: Sequence[str], shares: dict[str, float], seed: int) -> list[str]:
    """Whole groups of equal keys that fit, the last in the order of their hashes first; one group at least is left."""
    sizes, split_of = Counter(keys), dict.fromkeys(keys, "train")
    left = by_hash(keys, seed)[::-1]
    for split, share in shares.items():
        wanted = round(share * len(keys))
        if share > 0 and wanted == 0:
            wanted = 1
        room = wanted
        for key in list(left):
            if sizes[key] <= room and len(left) > 1:
                split_of[key] = split
                left.remove(key)
                room -= sizes[key]
        if wanted and room == wanted and len(left) > 1:
            smallest = sorted(left, key=lambda key: sizes[key])[0]
            split_of[smallest] = split
            left.remove(smallest)
    return [split_of[key] for key in keys]


@pytest.mark.parametrize(
    ("count", "val", "test"),
    [(100, 0.1, 0.2), (97, 0.13, 0.31), (11, 0.5, 0.25), (13, 0, 0.4), (7, 0.2, 0), (19, 0, 0)],
)
def test_shares_of_distinct_keys_are_exact(count: int, val: float, test: float) -> None:
    keys = [f"{number}.jpg" for number in range(count)]
    expected = {"val": round(count * val), "test": round(count * test)}
    splits = cut(keys, {"val": val, "test": test}, 0)
    counted = Counter(splits.tolist())
    assert (counted["val"], counted["test"]) == (expected["val"], expected["test"])
    assert counted["train"] == count - sum(expected.values())


GROUPED = st.lists(st.sampled_from([f"group {number}" for number in range(9)]), max_size=41)
SHARES = st.fixed_dictionaries({"val": st.floats(0, 0.6), "test": st.floats(0, 0.6)})


@given(st.lists(st.text(max_size=3), max_size=29) | GROUPED, SHARES, st.integers(0, 2))
def test_cut_is_the_slow_one(keys: list[str], shares: dict[str, float], seed: int) -> None:
    splits = cut(keys, shares, seed)
    assert splits.shape == (len(keys),)
    assert splits.tolist() == slow_cut(keys, shares, seed)


@given(GROUPED, SHARES, st.randoms())
def test_equal_keys_go_together_and_the_order_is_nothing(
    keys: list[str], shares: dict[str, float], random: Random
) -> None:
    split_of = dict(zip(keys, cut(keys, shares, 0).tolist(), strict=True))
    order = list(range(len(keys)))
    random.shuffle(order)
    shuffled = [keys[index] for index in order]
    assert cut(shuffled, shares, 0).tolist() == [split_of[key] for key in shuffled]
    assert cut(iter(keys), shares, 0).tolist() == [split_of[key] for key in keys]


@given(GROUPED, SHARES)
def test_a_split_exceeds_its_share_only_where_every_group_is_larger_and_train_is_never_empty(
    keys: list[str], shares: dict[str, float]
) -> None:
    assume(keys)
    splits = cut(keys, shares, 0).tolist()
    assert "train" in splits
    for split, share in shares.items():
        groups = {key for key, where in zip(keys, splits, strict=True) if where == split}
        wanted = max(round(share * len(keys)), 1)
        assert splits.count(split) <= wanted or len(groups) == 1
        assert share > 0 or not groups


@pytest.mark.parametrize("share", [0.001, 0.04])
def test_a_share_that_is_not_zero_gets_an_image(share: float) -> None:
    splits = cut([f"{number}" for number in range(11)], {"val": share, "test": share}, 0).tolist()
    assert Counter(splits) == {"train": 9, "val": 1, "test": 1}


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ([], []),
        (["a"], ["train"]),
        (["a"] * 5, ["train"] * 5),  # all of one group: training comes first
    ],
)
def test_too_few_groups_to_cut(keys: list[str], expected: list[str]) -> None:
    assert cut(keys, {"val": 0.4, "test": 0.4}, 0).tolist() == expected


def test_one_more_image_moves_hardly_any_other() -> None:
    """Nothing is shuffled: only images next to the two borders may change sides."""
    keys = [f"{number}.jpg" for number in range(101)]
    before = cut(keys, {"val": 0.1, "test": 0.2}, 0)
    for number in range(20):
        after = cut([*keys, f"new {number}.jpg"], {"val": 0.1, "test": 0.2}, 0)[:-1]
        assert (before != after).sum() <= 2


def test_another_seed_cuts_otherwise() -> None:
    keys = [f"{number}.jpg" for number in range(47)]
    assert len({tuple(cut(keys, {"val": 0.3}, seed).tolist()) for seed in range(7)}) == 7


# --- so many images a class -----------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 999)), max_size=31, unique_by=lambda image: image[1]),
    st.integers(1, 5),
    st.integers(0, 2),
)
def test_keep_per_class_is_the_slow_one(images: list[tuple[str, int]], count: int, seed: int) -> None:
    keep = keep_per_class([name for name, _ in images], [f"{number}.jpg" for _, number in images], count, seed)
    assert (keep.shape, keep.dtype) == ((len(images),), bool)
    for (name, number), kept in zip(images, keep, strict=True):
        of_class = by_hash([f"{other}.jpg" for class_, other in images if class_ == name], seed)
        assert kept == (f"{number}.jpg" in of_class[:count])


def test_classes_with_fewer_images_keep_them_all() -> None:
    classes = ["cat"] * 7 + ["owl"] * 2 + ["dog"] * 3
    keep = keep_per_class(classes, [f"{number}.jpg" for number in range(12)], 3, 0)
    assert Counter(name for name, kept in zip(classes, keep, strict=True) if kept) == {"cat": 3, "owl": 2, "dog": 3}


def test_equal_keys_are_kept_together_where_the_number_allows() -> None:
    keys = ["x", "y", "x", "z", "y", "z"]
    kept = [key for key, keep in zip(keys, keep_per_class(["cat"] * 6, keys, 4, 0), strict=True) if keep]
    assert sorted(kept) == sorted(by_hash(keys, 0)[:2] * 2)


# --- twins ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("leaf", "leaves"), ("bus", "buses"), ("city", "cities"), ("dog", "dogs"), ("box", "boxes"),
        ("beach", "beaches"), ("dish", "dishes"), ("tomato", "tomatoes"), ("photo", "photos"), ("shoe", "shoes"),
        ("toy", "toys"), ("movie", "movies"), ("horse", "horses"), ("glass", "glasses"), ("lens", "lenses"),
        ("man", "men"), ("child", "children"), ("mouse", "mice"), ("knife", "knives"), ("cactus", "cacti"),
        ("traffic light", "traffic lights"), ("Teddy-Bear", "teddy bears"), ("wild goose", "wild geese"),
        ("t-shirt", "T Shirt"), ("Café", "cafe"), ("hot_dog", "hot dog"),  # one name, spelled in two ways
    ],
)  # fmt: skip
def test_twins_whichever_is_seen(one: str, other: str) -> None:
    assert twins([one], [other]) == [(one, other)]
    assert twins([other], [one]) == [(other, one)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("glass", "grass"), ("cat", "category"), ("sun", "sunset"), ("bus", "bu"), ("glass", "glas"),
        ("leave", "leaf"), ("dog", "hot dogs"), ("hot dog", "hot"), ("plane", "airplane"), ("gas", "ga"),
        ("tennis", "tenni"),
    ],
)  # fmt: skip
def test_what_is_not_taken_for_twins(one: str, other: str) -> None:
    assert twins([one], [other]) == []
    assert twins([other], [one]) == []


def test_all_pairs_are_given_sorted_and_once() -> None:
    seen = ["dogs", "Dog", "T-shirt", "tree", "leaves", "glass"]
    unseen = ["t shirt", "dog", "trees", "leaf", "glasses", "water", "T_Shirts"]
    assert twins(seen, unseen) == [
        ("Dog", "dog"), ("T-shirt", "T_Shirts"), ("T-shirt", "t shirt"), ("dogs", "dog"), ("glass", "glasses"),
        ("leaves", "leaf"), ("tree", "trees"),
    ]  # fmt: skip
    assert twins(iter(seen), iter(unseen)) == twins(seen, unseen)
    assert twins([], unseen) == twins(seen, []) == []


NUS_WIDE_CONCEPTS = """
    airport animal beach bear birds boats book bridge buildings cars castle cat cityscape clouds computer coral cow
    dancing dog earthquake elk fire fish flags flowers food fox frost garden glacier grass harbor horses house lake leaf
    map military moon mountain nighttime ocean person plane plants police protest railroad rainbow reflection road rocks
    running sand sign sky snow soccer sports statue street sun sunset surf swimmers tattoo temple tiger tower town toy
    train tree valley vehicle water waterfall wedding whales window zebra"""

#: Seen tags of NUS-WIDE that are a concept in the other number.
NUS_WIDE_TWINS = """
    animals=animal bears=bear bird=birds boat=boats bridges=bridge building=buildings car=cars cats=cat cloud=clouds
    cows=cow dogs=dog flag=flags flower=flowers gardens=garden horse=horses houses=house lakes=lake leaves=leaf maps=map
    mountains=mountain plant=plants reflections=reflection rock=rocks signs=sign sport=sports streets=street toys=toy
    trees=tree valleys=valley waterfalls=waterfall windows=window"""

#: Other seen tags that begin as a concept does.
NUS_WIDE_OTHERS = """
    night city sunrise airplane airplanes skyline sunlight dance swimming station sunny wind bride fishing harbour
    cathedral stream sunglasses sunshine earth cloudy skyscraper trail fisheye swim railway firefighter rail politicians
    state protesters windy beards houseboat waterways rainy roadblock railing"""


def test_the_twins_of_nus_wide() -> None:
    expected = [tuple(pair.split("=")) for pair in NUS_WIDE_TWINS.split()]
    seen = [*NUS_WIDE_OTHERS.split(), *(tag for tag, _ in expected[::-1])]
    assert (len(NUS_WIDE_CONCEPTS.split()), len(expected)) == (81, 31)
    assert twins(seen, NUS_WIDE_CONCEPTS.split()) == expected


@given(
    st.lists(st.sampled_from(["dog", "dogs", "Dog", "leaf", "leaves", "bus", "buses", "glass", "glasses", "ties"])),
    st.lists(st.sampled_from(["dog", "DOGS", "leaf", "leafs", "tie", "ty", "busses", "buses", "glasse"])),
)
def test_twins_are_twins_from_either_side(left: list[str], right: list[str]) -> None:
    assert {(b, a) for a, b in twins(left, right)} == set(twins(right, left))


@pytest.mark.slow
def test_a_large_data_set_is_cut_in_seconds() -> None:
    """ImageNet has 1.3 million images: a loop within a loop would take hours."""
    start = time.perf_counter()
    cut([f"{number}.jpg" for number in range(300_000)], {"val": 0.1, "test": 0.2}, 0)
    assert time.perf_counter() - start < 20
