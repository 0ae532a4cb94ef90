"""What is done to the pixels of a training image. Parts of timm, each seeded by the image's draw alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps
from timm.data import Mixup
from timm.data.auto_augment import rand_augment_transform
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor

from zsl_tagger.errors import UserError
from zsl_tagger.images.preprocessing import Preprocessing, load_array, load_photo
from zsl_tagger.training.config import TrainConfig
from zsl_tagger.training.released_rand_augment import ReleasedRandAugment

Transform = Callable[[Image.Image], Image.Image]


class Augment:
    """A photo file -> a square of pixels, drawn anew for each seed."""

    def __init__(self, config: TrainConfig):
        self.size = config.image_size
        self.squash = Preprocessing(self.size, interpolation=config.interpolation)
        self.random_crop: Transform | None = None
        if config.crop == "random":
            self.random_crop = RandomResizedCropAndInterpolation(
                self.size, scale=(config.crop_scale, 1.0), interpolation=config.interpolation
            )
        self.steps: list[Transform] = []
        if config.flip:
            self.steps.append(_Flip(config.flip))
        if config.cutout:
            self.steps.append(_Cutout(config.cutout))
        if config.rand_augment:
            released = config.rand_augment == "released"
            self.steps.append(ReleasedRandAugment() if released else _RandAugment(config.rand_augment, self.size))

    def __call__(self, path: Path, seed: tuple[int, ...]) -> np.ndarray:
        """uint8 ``(size, size, 3)``.

        Raises:
            ImageError: it cannot be read.
        """
        if self.random_crop is None and not self.steps:
            return load_array(path, self.squash)
        seed_everything(seed)
        if self.random_crop is None:
            image = Image.fromarray(load_array(path, self.squash))
        else:
            image = self.random_crop(load_photo(path, self.size))
        for step in self.steps:
            image = step(image)
        return np.asarray(image)


class _Flip:
    def __init__(self, chance: float):
        self.chance = chance

    def __call__(self, image: Image.Image) -> Image.Image:
        return ImageOps.mirror(image) if random.random() < self.chance else image


class _Cutout:
    """Draw a box of one random colour (DeVries & Taylor 2017), its middle anywhere, as the released code draws it.

    A side is odd there: 113 pixels for half of 224 or of 225, since both of the box's edges are drawn.
    """

    def __init__(self, side: float):
        self.side = side  # over the image's

    def __call__(self, image: Image.Image) -> Image.Image:
        image = image.copy()
        width, height = image.size
        y, x = int(np.random.randint(height)), int(np.random.randint(width))
        half_x, half_y = (int(self.side * side + 0.5) // 2 for side in image.size)
        colour = tuple(random.randrange(256) for _ in range(3))
        ImageDraw.Draw(image).rectangle((x - half_x, y - half_y, x + half_x, y + half_y), fill=colour)
        return image


class _RandAugment:
    """timm's RandAugment, in timm's words.

    Raises:
        UserError: timm does not understand them.
    """

    def __init__(self, words: str, size: int):
        grey = {"img_mean": (124, 116, 104), "translate_const": int(size * 0.45)}
        try:
            self.transform = rand_augment_transform(words, grey)
        except Exception as error:  # timm asserts, and looks up what is not there
            raise UserError(
                f"expected rand_augment in timm's words, e.g. rand-m7-mstd0.5-inc1, or released, got {words!r} "
                f"({error})"
            ) from None

    def __call__(self, image: Image.Image) -> Image.Image:
        try:
            return self.transform(image)
        except ValueError as error:
            if "bits" not in str(error):
                raise
            return image  # at the highest magnitude timm posterizes to 0 bits, all black, which Pillow refuses


class BatchMix:
    """Mixup and cutmix of a batch with itself, by timm; targets are mixed likewise."""

    def __init__(self, config: TrainConfig):
        self.mixup, self.cutmix = config.mixup, config.cutmix

    def __call__(self, images: Tensor, targets: Tensor, seed: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """uint8 ``(B, S, S, 3)``, float ``(B, K)`` -> float of the same shapes; of an odd batch the last stays."""
        seed_everything(seed)
        x = images.float().permute(0, 3, 1, 2)  # (B, S, S, 3) -> (B, 3, S, S), a view that is mixed in place
        even = len(x) // 2 * 2
        if even == 0:
            return x.permute(0, 2, 3, 1), targets
        # timm mixes class numbers. Given each image's own number, it says how much of which image went into it.
        mix = Mixup(self.mixup, self.cutmix, label_smoothing=0.0, num_classes=even)
        _, shares = mix(x[:even], torch.arange(even, device=x.device))  # (even, even)
        mixed = shares.to(targets) @ targets[:even]
        return x.permute(0, 2, 3, 1), torch.cat([mixed, targets[even:]])


def seed_everything(seed: tuple[int, ...]) -> None:
    """Seed what timm's transforms draw from: ``random``, numpy and torch."""
    number = int(np.random.SeedSequence(seed).generate_state(1)[0])
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)
