"""Read CIFAR-100 and Stanford-Cars as their authors pack them, without class folders."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from data_prep.output import write_whole
from data_prep.text import read_text
from zsl_tagger.datasets.format import path_fault
from zsl_tagger.errors import UserError, require
from zsl_tagger.system.files import folder_inside
from zsl_tagger.system.pickles import array_of, load_data


class Listed(NamedTuple):
    """An image with its class."""

    path: str  # below the image root
    class_name: str
    split: str


class Listing(NamedTuple):
    """Images of a data set with one class per image.

    Attributes:
        dropped: (path, reason) of each skipped image.
        unpack: writes the images to ``image_root`` if they are packed as arrays.
    """

    image_root: Path
    images: list[Listed]
    dropped: Sequence[tuple[str, str]] = ()
    unpack: Callable[[Path], None] | None = None


def read_packed(source: Path, unpack_to: Path) -> Listing | None:
    """Return the images of a folder in one of the two packed formats; None for any other folder.

    Args:
        unpack_to: the image root of images that are packed as arrays.

    Raises:
        UserError: a file is missing or broken.
    """
    read = _packing(source)
    if read is None:
        return None
    if read in (_cars, _cars_devkit):
        return Listing(source, read(source))
    images = [Listed(_png(split, name, number), name, split) for split, name, number, _ in read(source)]
    return Listing(unpack_to, images, unpack=lambda folder: _unpack(read(source), folder))


def _packing(source: Path) -> Callable[[Path], Any] | None:
    """Return the function that reads the folder; None if its format is not one of the two."""
    signs = {
        _cifar100_binary: ("train.bin", "fine_label_names.txt"),
        _cifar100_python: ("train", "test", "meta"),
        _cars: ("cars_annos.mat",),
        _cars_devkit: ("devkit/cars_train_annos.mat",),
    }
    return next((read for read, files in signs.items() if all((source / f).is_file() for f in files)), None)


# --- CIFAR-100: 32 x 32 pixels, three planes one after the other ---------------------------------------------------


Array = tuple[str, str, int, np.ndarray]  # split, class, number, uint8 (32, 32, 3)


def _cifar100_binary(source: Path) -> Iterator[Array]:
    names = read_text(source / "fine_label_names.txt").split()
    for split in ("train", "test"):
        if not (source / f"{split}.bin").is_file():
            raise UserError(f"no file at {source / f'{split}.bin'}")
        content = np.fromfile(source / f"{split}.bin", np.uint8)
        if len(content) % 3074:
            raise UserError(f"{source / f'{split}.bin'}: expected records of 3,074 bytes, got {len(content):,} bytes")
        records = content.reshape(-1, 3074)
        yield from _arrays(split, source / f"{split}.bin", records[:, 1].tolist(), records[:, 2:], names)


def _cifar100_python(source: Path) -> Iterator[Array]:
    try:
        names = [name.decode() for name in load_data(source / "meta", "bytes")[b"fine_label_names"]]
        for split in ("train", "test"):
            content = load_data(source / split, "bytes")
            pixels = np.asarray(array_of(content[b"data"]), np.uint8)
            yield from _arrays(split, source / split, list(content[b"fine_labels"]), pixels, names)
    except UserError:
        raise
    except Exception as error:  # a broken pickle may raise any exception
        raise UserError(f"{source} is not the Python version of CIFAR-100: {error or type(error).__name__}") from None


def _arrays(split: str, file: Path, labels: list[int], pixels: np.ndarray, names: list[str]) -> Iterator[Array]:
    if pixels.shape != (len(labels), 3072) or not all(0 <= label < len(names) for label in labels):
        raise UserError(f"{file}: expected a label below {len(names)} and 3,072 values per image, got {pixels.shape}")
    for number, (label, row) in enumerate(zip(labels, pixels, strict=True)):
        yield split, names[label], number, row.reshape(3, 32, 32).transpose(1, 2, 0)  # (32, 32, 3)


def _png(split: str, name: str, number: int) -> str:
    """Return the path of an image relative to the image root."""
    path = f"{split}/{name}/{number:05d}.png"
    if "/" in name or path_fault(path):
        raise UserError(f"the class name {name!r} cannot be used as a folder name")
    return path


def _unpack(arrays: Iterator[Array], folder: Path) -> None:
    """Write each image as a PNG file, unless it exists from an earlier run."""
    for split, name, number, pixels in arrays:
        path = _png(split, name, number)
        png = io.BytesIO()
        Image.fromarray(pixels).save(png, "PNG")
        if not _holds(folder / path, png.getvalue()):
            inside = folder_inside(folder, Path(path).parent)
            write_whole(inside / Path(path).name, png.getvalue(), to_disk=False)


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except OSError:
        return False


# --- Stanford-Cars -------------------------------------------------------------------------------------------------


def _cars(source: Path) -> list[Listed]:
    """Read ``cars_annos.mat`` with ``car_ims/``: one list, each image marked as test or not."""
    file = source / "cars_annos.mat"
    content = _matlab(file, "annotations", "class_names")
    return [
        Listed(_car(file, number, row, "relative_im_path"), _car_class(file, number, row, content["class_names"]),
               "test" if _field(file, number, row, "test") else "train")
        for number, row in enumerate(content["annotations"], start=1)
    ]  # fmt: skip


def _cars_devkit(source: Path) -> list[Listed]:
    """Read ``devkit/`` with ``cars_train/`` and ``cars_test/``; the test labels are in a separate file."""
    names = _matlab(source / "devkit" / "cars_meta.mat", "class_names")["class_names"]
    test = "cars_test_annos_withlabels.mat"
    listed = []
    for split, file in (
        ("train", source / "devkit" / "cars_train_annos.mat"),
        ("test", source / test if (source / test).is_file() else source / "devkit" / test),
    ):
        for number, row in enumerate(_matlab(file, "annotations")["annotations"], start=1):
            path = f"cars_{split}/{_car(file, number, row, 'fname')}"
            listed.append(Listed(path, _car_class(file, number, row, names), split))
    return listed


def _field(file: Path, number: int, row: Any, field: str) -> Any:
    try:
        return row[field]
    except (ValueError, IndexError, TypeError):
        raise UserError(f"{file}: image {number} has no {field}") from None


def _car(file: Path, number: int, row: Any, field: str) -> str:
    return str(_field(file, number, row, field))


def _car_class(file: Path, number: int, row: Any, names: np.ndarray) -> str:
    value = _field(file, number, row, "class")
    try:
        label = int(value)
    except (ValueError, TypeError):
        label = 0
    if not 1 <= label <= len(names):
        raise UserError(f"{file}: image {number}: expected a class of 1 to {len(names)}, got {value!r}")
    return str(names[label - 1])


def _matlab(path: Path, *fields: str) -> dict[str, Any]:
    require("scipy", "train")
    from scipy.io import loadmat

    if not path.is_file():
        raise UserError(f"no file at {path}")
    try:
        content = loadmat(path, squeeze_me=True)
    except Exception as error:  # scipy may raise any exception on a broken file
        raise UserError(f"{path} is not a readable MATLAB file: {error}") from None
    missing = [field for field in fields if field not in content]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}")
    return {field: np.atleast_1d(content[field]) for field in fields}
