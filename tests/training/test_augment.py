"""Test zsl_tagger/training/augment.py: pixels depend on the seed only, and mixed batches equal those of a slow loop."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_data import write_photo
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from zsl_tagger.errors import UserError
from zsl_tagger.images.preprocessing import ImageError, Preprocessing, load_array
from zsl_tagger.training.augment import Augment, BatchMix, seed_everything
from zsl_tagger.training.config import TrainConfig
from zsl_tagger.training.released_rand_augment import ReleasedRandAugment

SIZE = 61
SEEDS = [(3, step, place) for step in range(7) for place in (0, 1)]

SETTINGS = pytest.mark.parametrize(
    "values",
    [
        {"flip": 0.5},
        {"cutout": 0.5},
        {"crop": "random"},
        {"rand_augment": "rand-m9-mstd0.5-inc1"},
        {"rand_augment": "released"},
        {"flip": 0.5, "cutout": 0.5, "crop": "random", "rand_augment": "rand-m9-mstd0.5-inc1"},
    ],
    ids=["flip", "cutout", "crop", "RandAugment", "released RandAugment", "together"],
)


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    write_photo(path.with_suffix(".jpg"), seed=0, side=97)
    Image.open(path.with_suffix(".jpg")).save(path)
    return path


def make(**values: Any) -> Augment:
    return Augment(TrainConfig(**{"image_size": SIZE, "flip": 0.0, **values}))


# --- one image --------------------------------------------------------------------------------------------


def test_no_augmentation_is_preprocessing(photo: Path, examples: Path) -> None:
    for path in (photo, examples / "cat.jpg"):
        np.testing.assert_array_equal(make()(path, (3, 5)), load_array(path, Preprocessing(SIZE)))


@SETTINGS
def test_augmentation_depends_on_the_seed_only(photo: Path, values: dict[str, Any]) -> None:
    augment = make(**values)
    first = augment(photo, (3, 5, 0)).copy()
    random.seed(99)
    np.random.seed(99)
    torch.manual_seed(99)
    augment(photo, (3, 6, 0))
    np.testing.assert_array_equal(augment(photo, (3, 5, 0)), first)
    np.testing.assert_array_equal(make(**values)(photo, (3, 5, 0)), first)


@SETTINGS
def test_different_seeds_give_different_results(photo: Path, values: dict[str, Any]) -> None:
    """Run, step and position each matter."""
    augment = make(**values)
    assert len({augment(photo, seed).tobytes() for seed in SEEDS}) > 1
    for position in range(3):
        seeds = [(3,) * position + (number,) + (3,) * (2 - position) for number in range(12)]
        assert len({augment(photo, seed).tobytes() for seed in seeds}) > 1


@SETTINGS
def test_result_is_a_square_of_uint8(examples: Path, values: dict[str, Any]) -> None:
    pixels = make(**values)(examples / "cat.jpg", (3, 5))
    assert pixels.shape == (SIZE, SIZE, 3)
    assert pixels.dtype == np.uint8


@SETTINGS
def test_unreadable_image_raises_image_error(tmp_path: Path, values: dict[str, Any]) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(ImageError, match="not an image that Pillow can read"):
        make(**values)(tmp_path / "broken.jpg", (3, 5))
    with pytest.raises(ImageError, match="no such file"):
        make(**values)(tmp_path / "none.jpg", (3, 5))


def test_flip_is_a_mirror_or_nothing(photo: Path) -> None:
    plain = load_array(photo, Preprocessing(SIZE))
    mirrored = plain[:, ::-1]
    np.testing.assert_array_equal(make(flip=1.0)(photo, (3, 5)), mirrored)
    flips = 0
    for step in range(100):
        drawn = make(flip=0.3)(photo, (3, step))
        assert np.array_equal(drawn, plain) != np.array_equal(drawn, mirrored)
        flips += np.array_equal(drawn, mirrored)
    assert flips == pytest.approx(30, abs=16)  # 3.5 standard deviations


def boxes(pixels: np.ndarray, plain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and columns in which a pixel differs."""
    changed = (pixels != plain).any(axis=2)
    return np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_cutout_is_one_box_of_one_colour(photo: Path, share: float) -> None:
    plain, augment = load_array(photo, Preprocessing(SIZE)), make(cutout=share)
    heights, middles = [], []
    for step in range(60):
        pixels = augment(photo, (3, step))
        rows, columns = boxes(pixels, plain)
        box = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert (box == box[0, 0]).all()
        heights.append(len(rows))
        middles.append((rows[0] + rows[-1]) / 2)
    whole = int(share * SIZE + 0.5) // 2 * 2 + 1
    assert max(heights) <= whole
    assert max(heights) >= min(whole, SIZE) - 3  # of 60 boxes some are nearly whole; a pixel may have had the colour
    assert min(middles) < SIZE / 3 < 2 * SIZE / 3 < max(middles)  # anywhere


@pytest.mark.parametrize(("size", "share", "half"), [(61, 0.4, 12), (61, 0.5, 15), (64, 0.5, 16), (63, 0.5, 16)])
def test_cutout_by_hand(photo: Path, size: int, share: float, half: int) -> None:
    """The centre is drawn first (y, then x), then the colour; the box includes both edges and is clipped."""
    plain = load_array(photo, Preprocessing(size))
    edges = 0
    for step in range(20):
        seed_everything((3, step))
        y, x = np.random.randint(size), np.random.randint(size)
        colour = [random.randrange(256) for _ in range(3)]
        expected = plain.copy()
        for row in range(size):
            for column in range(size):
                if abs(row - y) <= half and abs(column - x) <= half:
                    expected[row, column] = colour
        np.testing.assert_array_equal(make(cutout=share, image_size=size)(photo, (3, step)), expected)
        edges += not (half <= x < size - half and half <= y < size - half)
    assert edges > 0


@pytest.mark.parametrize(("size", "side"), [(224, 113), (225, 113), (226, 113), (227, 115)])
def test_cutout_has_the_width_of_the_released_code(photo: Path, size: int, side: int) -> None:
    plain = load_array(photo, Preprocessing(size))
    widths = [len(boxes(make(cutout=0.5, image_size=size)(photo, (3, step)), plain)[1]) for step in range(8)]
    assert max(widths) == side


def write_ramp(path: Path) -> None:
    """Write an image whose pixels encode their position: red grows from left to right, green from top to bottom."""
    ramp = np.zeros((200, 250, 3), np.uint8)
    ramp[..., 0] = np.arange(250)[None, :]
    ramp[..., 1] = np.arange(200)[:, None]
    Image.fromarray(ramp).save(path)


@pytest.mark.parametrize("least", [0.08, 0.5])
def test_random_crop_has_at_least_the_minimum_area(tmp_path: Path, least: float) -> None:
    write_ramp(tmp_path / "ramp.png")
    areas = []
    for step in range(80):
        pixels = make(crop="random", crop_scale=least)(tmp_path / "ramp.png", (3, step)).astype(int)
        red, green = pixels[SIZE // 2, :, 0], pixels[:, SIZE // 2, 1]
        assert (np.diff(red) >= 0).all()  # upright and not mirrored
        assert (np.diff(green) >= 0).all()
        # from the middles of the outermost pixels to the whole width
        width, height = (np.array([red[-2] - red[1], green[-2] - green[1]]) * SIZE / (SIZE - 3)).tolist()
        areas.append(width * height / (200 * 250))
    assert min(areas) > 0.85 * least
    assert max(areas) <= 1.05
    assert max(areas) - min(areas) > 0.6 * (1 - least)  # of every size


def test_random_crop_can_be_anywhere(tmp_path: Path) -> None:
    write_ramp(tmp_path / "ramp.png")
    crops = [make(crop="random", crop_scale=0.08)(tmp_path / "ramp.png", (3, step)) for step in range(60)]
    middles = np.array([crop[SIZE // 2, SIZE // 2, :2] for crop in crops], int)
    assert (middles.min(axis=0) < [90, 70]).all()
    assert (middles.max(axis=0) > [160, 130]).all()


def test_rand_augment_works_at_every_magnitude(photo: Path) -> None:
    for magnitude in (0, 7, 10):
        augment = make(rand_augment=f"rand-m{magnitude}-n3-inc1")
        for step in range(30):
            assert augment(photo, (3, step)).shape == (SIZE, SIZE, 3)


def test_released_rand_augment_is_a_setting(photo: Path) -> None:
    """test_released_rand_augment.py tests its operations."""
    plain, augment = load_array(photo, Preprocessing(SIZE)), make(rand_augment="released")
    drawn = [augment(photo, (3, step)) for step in range(40)]
    unchanged = sum(np.array_equal(pixels, plain) for pixels in drawn)
    assert 40 * 0.25 / 3 < unchanged < 25  # a quarter draws nothing, and some operations may change nothing
    seed_everything((3, 7))
    expected = ReleasedRandAugment()(Image.fromarray(plain))
    np.testing.assert_array_equal(drawn[7], np.asarray(expected))


@pytest.mark.parametrize("words", ["m9", "augmix-m3", "rand-q9", "rand-mnine5", "rand-m9-wfoo1", "original"])
def test_invalid_rand_augment(words: str) -> None:
    with pytest.raises(UserError, match=f"expected rand_augment in timm's notation, e.g. rand-m7.*, got '{words}'"):
        make(rand_augment=words)


# --- a batch ----------------------------------------------------------------------------------------------

BATCH, PIXELS, K = 5, 13, 7


def make_batch(count: int = BATCH) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (count, PIXELS, PIXELS, 3), dtype=torch.uint8, generator=generator)
    return images, torch.rand(count, K, generator=generator)


def mix(images: Tensor, targets: Tensor, seed: tuple[int, ...], **values: Any) -> tuple[Tensor, Tensor]:
    return BatchMix(TrainConfig(**values))(images, targets, seed)


def partner(number: int, count: int) -> int:
    """Return the image that an image is mixed with: first with last; the last one of an odd batch is not mixed."""
    return count // 2 * 2 - 1 - number


def by_loop(images: Tensor, targets: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Mix images and targets in a loop; ``shares``: weight of the first image in each pixel ``(S, S)``."""
    mixed_images, mixed_targets = images.float().clone(), targets.clone()
    for number in range(len(images) // 2 * 2):
        other = partner(number, len(images))
        for row in range(PIXELS):
            for column in range(PIXELS):
                own = float(shares[row, column])
                mixed_images[number, row, column] = (
                    own * images[number, row, column].float() + (1 - own) * images[other, row, column].float()
                )
        own = float(shares.mean())
        mixed_targets[number] = own * targets[number] + (1 - own) * targets[other]
    return mixed_images, mixed_targets


@pytest.mark.parametrize("count", [2, 5, 7])
@pytest.mark.parametrize("step", range(4))
def test_mixup_equals_a_loop(count: int, step: int) -> None:
    images, targets = make_batch(count)
    mixed, mixed_targets = mix(images, targets, (3, step), mixup=0.8)
    first, last = images[0].float(), images[partner(0, count)].float()
    place = (first - last).abs().argmax()  # the share of the first image, read off one pixel
    own = ((mixed[0] - last).flatten()[place] / (first - last).flatten()[place]).item()
    assert 0 <= own <= 1
    expected, expected_targets = by_loop(images, targets, torch.full((PIXELS, PIXELS), own))
    assert_close(mixed, expected, atol=0.01, rtol=1e-4)
    assert_close(mixed_targets, expected_targets, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("count", [2, 5, 7])
@pytest.mark.parametrize("step", range(4))
def test_cutmix_equals_a_loop(count: int, step: int) -> None:
    """The weight of the target is the remaining area, also if the box is clipped at the edge."""
    images, targets = make_batch(count)
    mixed, mixed_targets = mix(images, targets, (3, step), cutmix=1.0)
    own = (mixed[0] == images[0].float()).all(dim=2).float()
    rows, columns = torch.nonzero(own == 0, as_tuple=True)
    box = torch.ones(PIXELS, PIXELS)
    if len(rows):
        box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = 0
    assert torch.equal(own, box)  # one rectangle
    expected, expected_targets = by_loop(images, targets, own)
    assert_close(mixed, expected)
    assert_close(mixed_targets, expected_targets)


def test_mixup_and_cutmix_alternate() -> None:
    images, targets = make_batch()
    kinds = set()
    for step in range(40):
        mixed, _ = mix(images, targets, (3, step), mixup=0.8, cutmix=1.0)
        kept = (mixed[0] == images[0].float()).all(dim=2)
        taken = (mixed[0] == images[3].float()).all(dim=2)
        kinds.add("cutmix" if (kept | taken).all() else "mixup")
    assert kinds == {"mixup", "cutmix"}


@pytest.mark.parametrize("values", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}])
def test_mix_depends_on_the_seed_only(values: dict[str, Any]) -> None:
    images, targets = make_batch()
    first, first_targets = mix(images, targets, (3, 5), **values)
    np.random.seed(99)
    again, again_targets = mix(images, targets, (3, 5), **values)
    assert torch.equal(again, first)
    assert torch.equal(again_targets, first_targets)
    assert len({mix(images, targets, (3, step), **values)[1].sum().item() for step in range(7)}) > 1


@pytest.mark.parametrize("values", [{"mixup": 0.8}, {"cutmix": 1.0}])
def test_mix_leaves_its_inputs_and_the_last_of_an_odd_batch_unchanged(values: dict[str, Any]) -> None:
    images, targets = make_batch()
    images_before, targets_before = images.clone(), targets.clone()
    mixed, mixed_targets = mix(images, targets, (3, 5), **values)
    assert torch.equal(images, images_before)
    assert torch.equal(targets, targets_before)
    assert torch.equal(mixed[-1], images[-1].float())
    assert torch.equal(mixed_targets[-1], targets[-1])
    assert mixed.shape == images.shape
    assert mixed.dtype == torch.float32


@pytest.mark.parametrize("values", [{"mixup": 0.8}, {"cutmix": 1.0}])
def test_single_image_is_not_mixed(values: dict[str, Any]) -> None:
    images, targets = make_batch(1)
    mixed, mixed_targets = mix(images, targets, (3, 5), **values)
    assert torch.equal(mixed, images.float())
    assert torch.equal(mixed_targets, targets)


def test_seed_everything_seeds_all_three_generators() -> None:
    def numbers() -> list[float]:
        return [random.random(), np.random.random(), torch.rand(1).item()]

    seed_everything((3, 5))
    first = numbers()
    seed_everything((3, 6))
    other = numbers()
    seed_everything((3, 5))
    assert numbers() == first
    assert all(a != b for a, b in zip(first, other, strict=True))
