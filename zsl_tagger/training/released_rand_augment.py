"""RandAugment with the operations and magnitudes of PyPI's ``randaugment`` 1.0.2, which the released code uses.

It draws two operations with a magnitude for each, uniformly, and applies each with probability 0.5. Unlike timm's
RandAugment, it draws a magnitude of 1 to 9 for each operation, rotates in one direction only, posterizes to at least 4
bits, and has Cutout with small grey boxes among its operations.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image, ImageDraw
from timm.data import auto_augment as timm_ops

CHANCE = 0.5
MAGNITUDES = range(1, 10)

_GREY = (128, 128, 128)  # fills areas from outside the image
_BOX_GREY = (125, 122, 113)

Operation = Callable[[Image.Image, int], Image.Image]  # with a magnitude of 1..9


class ReleasedRandAugment:
    """Apply two random operations, drawn from ``random`` and numpy's global generator."""

    def __call__(self, image: Image.Image) -> Image.Image:
        for number in divmod(random.randrange(_KINDS**2), _KINDS):
            operation, level = divmod(number, len(MAGNITUDES))
            if random.random() < CHANCE:
                image = OPERATIONS[operation](image, MAGNITUDES[level])
        return image


def _steps(first: float, last: float) -> list[float]:
    """Return the values at magnitudes 0 to 9, bit for bit as in the package, because rounding affects pixels."""
    return np.linspace(first, last, len(MAGNITUDES) + 1).tolist()


_BITS = [round(bits) for bits in _steps(8, 4)]
_THRESHOLD = _steps(256, 0)
_ENHANCEMENT = _steps(0.0, 0.9)
_SHEAR = _steps(0, 0.3)
_SHIFT = _steps(0, 150 / 331)  # as a fraction of the side
_DEGREES = _steps(0, 30)
_BOX_SIDE = [round(side) for side in _steps(0, 20)]  # pixels


def _signed(value: float) -> float:
    return value * random.choice([-1, 1])


def _invert(image: Image.Image, magnitude: int) -> Image.Image:  # noqa: ARG001
    return timm_ops.invert(image)


def _auto_contrast(image: Image.Image, magnitude: int) -> Image.Image:  # noqa: ARG001
    return timm_ops.auto_contrast(image)


def _equalize(image: Image.Image, magnitude: int) -> Image.Image:  # noqa: ARG001
    return timm_ops.equalize(image)


def _posterize(image: Image.Image, magnitude: int) -> Image.Image:
    return timm_ops.posterize(image, _BITS[magnitude])


def _solarize(image: Image.Image, magnitude: int) -> Image.Image:
    return timm_ops.solarize(image, _THRESHOLD[magnitude])


def _enhance(enhance: Callable[[Image.Image, float], Image.Image], image: Image.Image, magnitude: int) -> Image.Image:
    return enhance(image, 1 + _signed(_ENHANCEMENT[magnitude]))


def _shear(shear: Callable[..., Image.Image], image: Image.Image, magnitude: int) -> Image.Image:
    return shear(image, _signed(_SHEAR[magnitude]), resample=Image.Resampling.BICUBIC, fillcolor=_GREY)


def _translate(translate: Callable[..., Image.Image], image: Image.Image, magnitude: int) -> Image.Image:
    return translate(image, _signed(_SHIFT[magnitude]), resample=Image.Resampling.NEAREST, fillcolor=_GREY)


def _rotate(image: Image.Image, magnitude: int) -> Image.Image:
    """Rotate counter-clockwise, the only direction of the released operation."""
    return timm_ops.rotate(image, _DEGREES[magnitude], resample=Image.Resampling.NEAREST, fillcolor=_GREY)


def _cutout(image: Image.Image, magnitude: int) -> Image.Image:
    """Fill a box with a side of up to 20 pixels (rounded down to an even number), clipped at the image's edge."""
    half = _BOX_SIDE[magnitude] // 2
    x, y = (int(np.random.randint(0, side)) for side in image.size)
    image = image.copy()
    if half:
        ImageDraw.Draw(image).rectangle((x - half, y - half, x + half - 1, y + half - 1), fill=_BOX_GREY)
    return image


#: In the order of the released package, so that equal seeds give equal results.
OPERATIONS: tuple[Operation, ...] = (
    _invert,
    _cutout,
    partial(_enhance, timm_ops.sharpness),
    _auto_contrast,
    _posterize,
    partial(_shear, timm_ops.shear_x),
    partial(_translate, timm_ops.translate_x_rel),
    partial(_translate, timm_ops.translate_y_rel),
    partial(_shear, timm_ops.shear_y),
    _rotate,
    _equalize,
    partial(_enhance, timm_ops.contrast),
    partial(_enhance, timm_ops.color),
    _solarize,
    partial(_enhance, timm_ops.brightness),
)
_KINDS = len(OPERATIONS) * len(MAGNITUDES)
