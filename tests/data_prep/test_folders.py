"""Class-per-folder trees and the packed CIFAR-100 and Stanford-Cars: names, splits, unseen classes."""

from __future__ import annotations

import csv
import logging
import os
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_data import write_photo
from PIL import Image

from data_prep.folders import Folders, _walk_splits, class_names
from data_prep.pipeline import Options, prepare
from zsl_tagger.datasets.read import load_dataset
from zsl_tagger.errors import UserError

pytestmark = pytest.mark.slow


def write_tree(folder: Path, classes: dict[str, int], seed: int = 0) -> None:
    for name, count in classes.items():
        for number in range(count):
            seed += 1
            write_photo(folder / name / f"{number:03d}.jpg", seed)


def counts(folder: Path) -> dict[str, Counter[str]]:
    """{split: {label: images}}"""
    dataset = load_dataset(folder)
    found: dict[str, Counter[str]] = {}
    for split, row in zip(dataset.splits, dataset.label_indices, strict=True):
        found.setdefault(str(split), Counter()).update(dataset.labels[index] for index in row)
    return found


def test_a_flat_tree_is_cut(tmp_path: Path) -> None:
    write_tree(tmp_path / "pets", {"cat": 11, "dog": 13, "grand_piano": 7})
    info = prepare(Folders(source=tmp_path / "pets"), tmp_path / "out", Options(val_fraction=0.1, test_fraction=0.2))
    assert info.images == {"train": 22, "val": 3, "test": 6}
    assert sum(counts(tmp_path / "out").values(), Counter()) == {"cat": 11, "dog": 13, "grand piano": 7}
    assert info.task == "single-label"
    again = prepare(Folders(source=tmp_path / "pets"), tmp_path / "again", Options(val_fraction=0.1, test_fraction=0.2))
    assert again == info
    assert (tmp_path / "out" / "data.csv").read_bytes() == (tmp_path / "again" / "data.csv").read_bytes()
    other = Options(val_fraction=0.1, test_fraction=0.2, seed=1)
    prepare(Folders(source=tmp_path / "pets"), tmp_path / "other", other)
    assert (tmp_path / "out" / "data.csv").read_bytes() != (tmp_path / "other" / "data.csv").read_bytes()


def test_the_whole_train_split_is_trained_with_a_fraction_of_0(tmp_path: Path) -> None:
    """A reproduction trains a fixed number of epochs on all of it; a split of one's own stays too."""
    write_tree(tmp_path / "pets", {"train/cat": 5, "train/dog": 7, "test/cat": 3, "test/dog": 2})
    info = prepare(Folders(source=tmp_path / "pets"), tmp_path / "out", Options(val_fraction=0))
    assert info.images == {"train": 12, "val": 0, "test": 5}
    assert len(load_dataset(tmp_path / "out").rows("val")) == 0


def test_near_duplicates_never_straddle_a_split_that_is_cut_here(tmp_path: Path) -> None:
    for seed in range(30):  # each photo in two sizes
        write_photo(tmp_path / "in" / "cat" / f"{seed}_a.jpg", seed, side=150)
        (tmp_path / "in" / "dog").mkdir(exist_ok=True)
        photo = Image.open(tmp_path / "in" / "cat" / f"{seed}_a.jpg")
        photo.resize((80, 90)).save(tmp_path / "in" / "dog" / f"{seed}_b.jpg")
    prepare(Folders(source=tmp_path / "in"), tmp_path / "out", Options(val_fraction=0.3, test_fraction=0.3))
    with (tmp_path / "out" / "data.csv").open(newline="") as file:
        split = {Path(row["path"]).stem: row["split"] for row in csv.DictReader(file)}
    assert all(split[f"{seed}_a"] == split[f"{seed}_b"] for seed in range(30))
    assert len(set(split.values())) == 3


def test_training_images_a_class(tmp_path: Path) -> None:
    write_tree(tmp_path / "in", {"cat": 11, "dog": 13, "bird": 5})
    prepare(Folders(source=tmp_path / "in"), tmp_path / "out", Options(train_per_class=7, val_fraction=0.2))
    found = counts(tmp_path / "out")
    assert found["train"] == {"cat": 7, "dog": 7, "bird": 5}
    assert sum(found["val"].values()) == 2  # a fifth of the other ten
    assert sum(found["test"].values()) == 8


def test_images_of_unseen_classes_are_for_test_only(tmp_path: Path) -> None:
    write_tree(tmp_path / "in", {"cat": 11, "dog": 13, "bird": 5, "cow": 7})
    info = prepare(Folders(source=tmp_path / "in", unseen="Dog, cow"), tmp_path / "out", Options())
    found = counts(tmp_path / "out")
    assert info.unseen_labels == 2
    assert (found["test"]["dog"], found["test"]["cow"]) == (13, 7)
    assert not {"dog", "cow"} & {*found["train"], *found["val"]}
    assert found["val"]


def test_named_splits_are_taken_and_val_is_cut_from_train(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for split, count in (("train", 20), ("val", 6)):
        write_tree(tmp_path / "in" / "archive" / split, {"n02084071": count, "n02121620": count}, seed=count * 10)
    info = prepare(Folders(source=tmp_path / "in"), tmp_path / "out", Options())
    assert info.images == {"train": 36, "val": 4, "test": 12}
    assert set(info.labels) == {"dog", "cat"}
    assert "val becomes the test split" in caplog.messages[0]


def test_three_named_splits_stay(tmp_path: Path) -> None:
    for split, count in (("Train", 5), ("Valid", 2), ("Testing", 3)):
        write_tree(tmp_path / "in" / split, {"cat": count, "dog": count}, seed=count * 10)
    assert prepare(Folders(source=tmp_path / "in"), tmp_path / "out", Options()).images == {
        "train": 10,
        "val": 4,
        "test": 6,
    }


def test_training_images_of_unseen_classes_are_dropped(tmp_path: Path) -> None:
    for split, count in (("train", 5), ("test", 3)):
        write_tree(tmp_path / "in" / split, {"cat": count, "dog": count}, seed=count * 10)
    info = prepare(Folders(source=tmp_path / "in", unseen="dog"), tmp_path / "out", Options(val_fraction=0.2))
    assert info.dropped == {"train or val image without a seen label": 5}
    assert counts(tmp_path / "out")["test"] == {"cat": 3, "dog": 3}


def test_stray_files_are_counted(tmp_path: Path) -> None:
    write_tree(tmp_path / "in", {"cat": 6, "dog": 6})
    write_photo(tmp_path / "in" / "=stray.jpg", 99)
    (tmp_path / "in" / "cat" / "broken.jpg").write_text("no photo")
    (tmp_path / "in" / "cat" / "notes.txt").write_text("no photo either")
    Path(os.fsdecode(os.fsencode(tmp_path / "in" / "dog") + b"/caf\xe9.jpg")).write_bytes(b"x")
    info = prepare(Folders(source=tmp_path / "in"), tmp_path / "out", Options())
    assert info.dropped == {
        "not in a class folder": 1,
        "file name that cannot be written to data.csv": 1,
        "not an image that Pillow can read": 1,
    }
    dropped = (tmp_path / "out" / "dropped.csv").read_text()
    assert dropped.count("\n") == 4
    assert "\n'=stray.jpg,not in a class folder\n" in dropped  # a spreadsheet finds no formula


def test_system_and_excluded_folders_are_no_classes_and_other_files_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_tree(tmp_path / "in", {"cat": 3, "dog": 3, "__MACOSX": 1, "@eaDir": 1, "raw": 2, "cat/raw": 1})
    (tmp_path / "in" / "cat" / "film.mp4").touch()
    (tmp_path / "in" / "raw" / "film.mov").touch()
    caplog.set_level(logging.INFO)
    listing = _walk_splits(tmp_path / "in", ["raw"])
    assert Counter(image.class_name for image in listing.images) == {"cat": 3, "dog": 3}
    assert (listing.dropped, caplog.messages) == ([], ["1 file skipped, not photos: .mp4"])


def test_excluded_folders_are_no_other_data_set_unless_there_are_some(tmp_path: Path) -> None:
    assert "exclude_path" not in Folders(source=tmp_path).identity()
    assert Folders(source=tmp_path, exclude_path=["raw"]).identity()["exclude_path"] == ["raw"]


def test_odd_names_anywhere_are_listed_not_fatal(tmp_path: Path) -> None:
    write_tree(tmp_path / "in", {"cat": 6, "dog": 6})
    Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/caf\xe9.jpg")).write_bytes(b"x")
    (tmp_path / "in" / "cat" / "new\rline.jpg").write_bytes((tmp_path / "in" / "cat" / "000.jpg").read_bytes())
    info = prepare(Folders(source=tmp_path / "in"), tmp_path / "out", Options())
    assert info.dropped == {"not in a class folder": 1, "file name that cannot be written to data.csv": 1}
    assert load_dataset(tmp_path / "out")


def test_a_class_called_train_does_not_swallow_the_others(tmp_path: Path) -> None:
    write_tree(tmp_path / "in", {"bus": 3, "car": 3, "train": 3})
    with pytest.raises(UserError, match=r"has folders named as splits \(train\) and others with images \(bus, car\)"):
        prepare(Folders(source=tmp_path / "in"), tmp_path / "out", Options())


def test_the_output_must_not_lie_among_the_photos(tmp_path: Path) -> None:
    write_tree(tmp_path / "in", {"cat": 3, "dog": 3})
    with pytest.raises(UserError, match=r"--output .*/in/out is inside --source .*/in: give a folder outside of it"):
        prepare(Folders(source=tmp_path / "in"), tmp_path / "in" / "out", Options())


def test_a_fixed_number_of_training_images_is_for_data_without_splits(tmp_path: Path) -> None:
    for split, count in (("train", 5), ("test", 3)):
        write_tree(tmp_path / "in" / split, {"cat": count, "dog": count}, seed=count * 10)
    with pytest.raises(UserError, match=r"--train-per-class draws a split, but in has one"):
        prepare(Folders(source=tmp_path / "in"), tmp_path / "out", Options(train_per_class=2))


def test_a_large_group_of_near_duplicates_stays_in_train(tmp_path: Path) -> None:
    write_tree(tmp_path / "in", {"cat": 6})
    for number in range(15):
        write_photo(tmp_path / "in" / "dog" / f"{number}.jpg", 99)
    for seed in range(4):
        info = prepare(Folders(source=tmp_path / "in"), tmp_path / f"out{seed}", Options(seed=seed))
        assert info.images == {"train": 15, "val": 2, "test": 4}


def test_empty_splits_are_noted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    write_tree(tmp_path / "in", {"cat": 1})
    prepare(Folders(source=tmp_path / "in"), tmp_path / "out", Options())
    assert caplog.messages == ["the split val has no images", "the split test has no images"]


# --- names ----------------------------------------------------------------------------------------------------


def test_wordnet_ids_get_their_names() -> None:
    names = class_names(["n01440764", "n02084071", "n99999999", "my_own class"])
    assert names == {"n01440764": "tench", "n02084071": "dog", "n99999999": "n99999999", "my_own class": "my own class"}


def test_all_imagenet_names_are_different_and_none_is_lost() -> None:
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    wnids = [info.index_to_label_name(index) for index in range(1000)]
    names = class_names(wnids)
    assert len(set(names.values())) == 1000
    assert (names["n02012849"], names["n03126707"]) == ("crane bird", "construction crane")
    assert (names["n03710637"], names["n03710721"]) == ("maillot", "tank suit")
    assert not [name for name in names.values() if "," in name or "_" in name]


def test_folders_that_read_the_same_keep_apart() -> None:
    assert sorted(class_names(["grand_piano", "grand piano"]).values()) == ["grand piano", "grand piano (grand_piano)"]


# --- as packed --------------------------------------------------------------------------------------------------


CIFAR_NAMES = ["apple", "aquarium_fish", "baby"]


def cifar_arrays() -> dict[str, tuple[np.ndarray, list[int]]]:
    random = np.random.default_rng(5)
    return {
        split: (random.integers(0, 256, (count, 3072), dtype=np.uint8), random.integers(0, 3, count).tolist())
        for split, count in (("train", 17), ("test", 7))
    }


def write_cifar_binary(folder: Path) -> None:
    folder.mkdir()
    (folder / "fine_label_names.txt").write_text("\n".join(CIFAR_NAMES) + "\n")
    for split, (pixels, labels) in cifar_arrays().items():
        records = np.concatenate(
            [np.zeros((len(labels), 1), np.uint8), np.array(labels, np.uint8)[:, None], pixels], axis=1
        )
        (folder / f"{split}.bin").write_bytes(records.tobytes())


def write_cifar_python(folder: Path, **extra: Any) -> None:
    folder.mkdir()
    (folder / "meta").write_bytes(pickle.dumps({b"fine_label_names": [name.encode() for name in CIFAR_NAMES], **extra}))
    for split, (pixels, labels) in cifar_arrays().items():
        (folder / split).write_bytes(
            pickle.dumps({b"data": pixels, b"fine_labels": labels, b"filenames": []}, protocol=2)
        )


@pytest.mark.parametrize("write", [write_cifar_binary, write_cifar_python])
def test_cifar_100_is_unpacked_pixel_by_pixel(write: Any, tmp_path: Path) -> None:
    write(tmp_path / "cifar")
    info = prepare(Folders(source=tmp_path / "cifar"), tmp_path / "out", Options(val_fraction=0.2))
    assert info.images["test"] == 7
    assert info.images["train"] + info.images["val"] == 17
    dataset = load_dataset(tmp_path / "out")
    assert dataset.image_root is not None
    for split, (pixels, labels) in cifar_arrays().items():
        for number, (row, label) in enumerate(zip(pixels, labels, strict=True)):
            path = f"{split}/{CIFAR_NAMES[label]}/{number:05d}.png"
            picture = np.asarray(Image.open(dataset.image_root / path))
            for y, x, channel in ((0, 0, 0), (0, 31, 1), (17, 3, 2), (31, 30, 0)):  # planes, then rows, then columns
                assert picture[y, x, channel] == row[channel * 1024 + y * 32 + x]
            named = dataset.label_indices[dataset.paths.index(path)]
            assert [dataset.labels[index] for index in named] == [CIFAR_NAMES[label].replace("_", " ")]


def test_a_pickle_with_code_is_not_opened(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    write_cifar_python(tmp_path / "cifar", evil=Evil())
    with pytest.raises(UserError, match=r"not the Python version of CIFAR-100: it contains (posix|nt)\.system"):
        prepare(Folders(source=tmp_path / "cifar"), tmp_path / "out", Options())
    assert not (tmp_path / "ran").exists()


def test_a_class_name_that_leads_out_of_the_folder_writes_nothing(tmp_path: Path) -> None:
    write_cifar_binary(tmp_path / "cifar")
    (tmp_path / "cifar" / "fine_label_names.txt").write_text("../../../out\n" * 3)
    with pytest.raises(UserError, match=r"the class name '../../../out' cannot be used as a folder name"):
        prepare(Folders(source=tmp_path / "cifar"), tmp_path / "a" / "b" / "c", Options())
    assert not list(tmp_path.rglob("*.png"))


def test_other_pictures_replace_those_unpacked_before(tmp_path: Path) -> None:
    write_cifar_binary(tmp_path / "cifar")
    prepare(Folders(source=tmp_path / "cifar"), tmp_path / "out", Options())
    picture = next((tmp_path / "out" / "images").rglob("*.png"))
    right = picture.read_bytes()
    Image.new("RGB", (32, 32)).save(picture)
    prepare(Folders(source=tmp_path / "cifar"), tmp_path / "out", Options())
    assert picture.read_bytes() == right


def test_a_cut_cifar_file_is_said(tmp_path: Path) -> None:
    write_cifar_binary(tmp_path / "cifar")
    content = (tmp_path / "cifar" / "test.bin").read_bytes()
    (tmp_path / "cifar" / "test.bin").write_bytes(content[:-5])
    with pytest.raises(UserError, match=r"test.bin: expected records of 3,074 bytes, got 21,513 bytes"):
        prepare(Folders(source=tmp_path / "cifar"), tmp_path / "out", Options())


def car_rows(rows: list[tuple[str, int, int]], name: str) -> np.ndarray:
    kinds = [(name, object), ("class", np.uint8), ("test", np.uint8)]
    return np.array(rows, dtype=kinds)


def test_stanford_cars_in_both_packings(tmp_path: Path) -> None:
    from scipy.io import savemat

    names = np.array(["Audi TT 2012", "Jeep Wrangler 2012"], dtype=object)
    rows = [(f"{number:05d}.jpg", 1 + number % 2, int(number >= 6)) for number in range(9)]
    one, kit = tmp_path / "one", tmp_path / "kit"
    for number, (file, _, is_test) in enumerate(rows):
        write_photo(one / "car_ims" / file, number)
        write_photo(kit / ("cars_test" if is_test else "cars_train") / file, number)
    in_folder = [(f"car_ims/{file}", label, is_test) for file, label, is_test in rows]
    savemat(one / "cars_annos.mat", {"annotations": car_rows(in_folder, "relative_im_path"), "class_names": names})
    (kit / "devkit").mkdir()
    savemat(kit / "devkit" / "cars_meta.mat", {"class_names": names})
    for file, is_test in (("devkit/cars_train_annos.mat", 0), ("cars_test_annos_withlabels.mat", 1)):
        savemat(kit / file, {"annotations": car_rows([row for row in rows if row[2] == is_test], "fname")})
    options = Options(missing="random", val_fraction=0.2)
    assert prepare(Folders(source=one), tmp_path / "out_one", options).images == {"train": 5, "val": 1, "test": 3}
    assert prepare(Folders(source=kit), tmp_path / "out_kit", options).images == {"train": 5, "val": 1, "test": 3}
    for out in ("out_one", "out_kit"):
        assert counts(tmp_path / out)["test"] == {"Audi TT 2012": 2, "Jeep Wrangler 2012": 1}


@pytest.mark.parametrize("label", [0, 3])
def test_a_car_of_a_class_that_is_not_there_is_said(label: int, tmp_path: Path) -> None:
    from scipy.io import savemat

    content = {"annotations": car_rows([("a.jpg", 1, 0), ("b.jpg", label, 0)], "relative_im_path")}
    savemat(tmp_path / "cars_annos.mat", {**content, "class_names": np.array(["A", "B"], dtype=object)})
    with pytest.raises(UserError, match=rf"cars_annos.mat: image 2: expected a class of 1 to 2, got .*{label}"):
        prepare(Folders(source=tmp_path), tmp_path.parent / "out", Options())


# --- bad input ----------------------------------------------------------------------------------------------------


def test_bad_input_is_said(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no folder at .*gone"):
        prepare(Folders(source=tmp_path / "gone"), out, Options())
    with pytest.raises(UserError, match=r"has no images in class folders: expected SOURCE/<class>/\*.jpg"):
        prepare(Folders(source=tmp_path / "empty"), out, Options())
    write_tree(tmp_path / "in", {"cat": 3, "xyzzyq": 3})
    with pytest.raises(UserError, match=r"without a vector in packaged \(1\): unknown label 'xyzzyq'.*--missing drop"):
        prepare(Folders(source=tmp_path / "in"), out, Options())
    with pytest.raises(UserError, match=r"--unseen has names that are not labels of this data: 'cow'"):
        prepare(Folders(source=tmp_path / "in", unseen="cow"), tmp_path / "out2", Options(missing="random"))
    with pytest.raises(UserError, match=r"expected --task to be one of single-label, multi-label; got 'tags'"):
        prepare(Folders(source=tmp_path / "in", task="tags"), out, Options())  # type: ignore[arg-type]
    write_tree(tmp_path / "odd", {"cat": 2, "salt, pepper": 2})
    with pytest.raises(UserError, match=r"the label 'salt, pepper' contains a comma and a space.*: rename it"):
        prepare(Folders(source=tmp_path / "odd"), tmp_path / "out3", Options())
    assert not (out / "data.csv").exists()


def test_dropping_unknown_labels_drops_their_images(tmp_path: Path) -> None:
    write_tree(tmp_path / "in", {"cat": 5, "dog": 5, "xyzzyq": 3})
    info = prepare(Folders(source=tmp_path / "in"), tmp_path / "out", Options(missing="drop"))
    assert info.labels == ["cat", "dog"]
    assert sum(info.images.values()) == 10
    assert sum(info.dropped.values()) == 3


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("val_fraction", 1.0, "--val-fraction of at least 0 and below 1, got 1.0"),
        ("test_fraction", -0.1, "--test-fraction of at least 0 and below 1, got -0.1"),
        ("test_fraction", 0.95, "--val-fraction and --test-fraction to leave images for training"),
        ("workers", 0, "--workers of at least 1, got 0"),
        ("train_per_class", 0, "--train-per-class of at least 1, got 0"),
    ],
)
def test_options_check_themselves(field: str, value: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Options(**{field: value})  # type: ignore[arg-type]
