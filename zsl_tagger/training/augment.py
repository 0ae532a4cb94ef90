"""Augment the pixels of training images with timm's transforms, seeded per image."""

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
    """Load a photo as a square of pixels, with an augmentation that depends on the seed alone."""

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
        """Return the pixels, uint8 ``(size, size, 3)``.

        Raises:
            ImageError: the file cannot be read.
        """
        if self.random_crop is None and not self.steps:
            return load_array(path, self.squash)
        _seed_transforms(seed)
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
    """Draw a box of one random colour centred anywhere in the image (DeVries & Taylor 2017), as the released code does.

    The box includes both of its edges, so its side is odd: 113 pixels for half of 224 or of 225.
    """

    def __init__(self, side: float):
        self.side = side  # as a fraction of the image's

    def __call__(self, image: Image.Image) -> Image.Image:
        image = image.copy()
        width, height = image.size
        y, x = int(np.random.randint(height)), int(np.random.randint(width))
        half_x, half_y = (int(self.side * side + 0.5) // 2 for side in image.size)
        colour = tuple(random.randrange(256) for _ in range(3))
        ImageDraw.Draw(image).rectangle((x - half_x, y - half_y, x + half_x, y + half_y), fill=colour)
        return image


class _RandAugment:
    """Apply timm's RandAugment.

    Raises:
        UserError: timm cannot parse ``spec``.
    """

    def __init__(self, spec: str, size: int):
        grey = {"img_mean": (124, 116, 104), "translate_const": int(size * 0.45)}
        try:
            self.transform = rand_augment_transform(spec, grey)
        except Exception as error:  # timm raises errors of several types
            raise UserError(
                f"expected rand_augment in timm's notation, e.g. rand-m7-mstd0.5-inc1, or released, got {spec!r} "
                f"({error})"
            ) from None

    def __call__(self, image: Image.Image) -> Image.Image:
        try:
            return self.transform(image)
        except ValueError as error:
            if "bits" not in str(error):
                raise
            return image  # the highest magnitude posterizes to 0 bits, which Pillow refuses


class BatchMix:
    """Apply timm's mixup and cutmix within a batch, and mix the targets the same way."""

    def __init__(self, config: TrainConfig):
        self.mixup, self.cutmix = config.mixup, config.cutmix

    def __call__(self, images: Tensor, targets: Tensor, seed: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Return mixed images and targets, both float.

        The last image of an odd batch stays as it is.

        Args:
            images: uint8 ``(B, S, S, 3)``.
            targets: float ``(B, K)``.
        """
        _seed_transforms(seed)
        x = images.float().permute(0, 3, 1, 2)  # (B, S, S, 3) -> (B, 3, S, S), a view that is mixed in place
        even = len(x) // 2 * 2
        if even == 0:
            return x.permute(0, 2, 3, 1), targets
        # timm mixes class targets. With a class for each image, they are the weights of the images in the mix.
        mix = Mixup(self.mixup, self.cutmix, label_smoothing=0.0, num_classes=even)
        _, shares = mix(x[:even], torch.arange(even, device=x.device))  # (even, even)
        mixed = shares.to(targets) @ targets[:even]
        return x.permute(0, 2, 3, 1), torch.cat([mixed, targets[even:]])


def seed_everything(seed: tuple[int, ...]) -> None:
    """Seed ``random``, numpy and torch, on every device."""
    torch.manual_seed(_seed_transforms(seed))


def _seed_transforms(seed: tuple[int, ...]) -> int:
    """Seed what timm's transforms use, ``random``, numpy and torch on the CPU, and return the number that seeds them.

    For each photo, :func:`seed_everything` would take 0.8 ms, because torch looks at every kind of device.
    """
    number = int(np.random.SeedSequence(seed).generate_state(1)[0])
    random.seed(number)
    np.random.seed(number)
    torch.default_generator.manual_seed(number)
    return number
