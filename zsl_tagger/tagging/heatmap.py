"""Show where the decoder looked for a label: attention -> heat map -> overlay.

A map is the attention of the label's query over the positions of the photo (ML-Decoder, section 3.2), averaged over
the heads, minus the average for arbitrary words: raw attention mostly goes to positions that attract every query,
which does not tell anything about this label. ``benchmarks/heatmaps.py`` measures both.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from zsl_tagger.errors import UserError
from zsl_tagger.images.preprocessing import Box, Preprocessing, in_pixels, load_small
from zsl_tagger.system.files import folder_inside, write_errors, write_whole

#: Longer side of an overlay, in pixels.
OVERLAY_SIDE = 800
#: Maximum number of overlays per photo without ``--top-k``: with --threshold 0 every word of the vocabulary is a tag.
MAPS_A_PHOTO = 10

_GLOW = np.array([255, 120, 0], np.float32)  # orange: rare in photos, and visible to colour-blind people
_NAME_LENGTH = 200  # bytes of a label in a file name; file systems allow 255


def relative_maps(attention: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """Return where the decoder looked for each label more than for arbitrary words.

    Args:
        attention: float32 ``(K, L)``, mean over heads, each row sums to 1; the L positions form a square grid.
        usual: float32 ``(L,)``, the mean attention of many words.

    Returns:
        float32 ``(K, R, R)`` with ``R * R = L``, 0..1: smoothed over neighbours (1, 2, 1 each way), clipped at 0, and
        divided by the maximum of each map. All zero for a label without any excess attention.

    Raises:
        UserError: the positions are not a square grid, e.g. tokens of several feature maps.
    """
    side = math.isqrt(attention.shape[-1])
    if side * side != attention.shape[-1]:
        raise UserError(f"this model has no heat maps: its {attention.shape[-1]} tokens are not one square grid")
    more = (attention - usual).reshape(-1, side, side)  # (K, R, R)
    more = np.maximum(_smooth(_smooth(more).swapaxes(1, 2)).swapaxes(1, 2), 0)
    return more / np.maximum(more.max(axis=(1, 2), keepdims=True), 1e-12)


def _smooth(maps: np.ndarray) -> np.ndarray:
    """Smooth along the rows ``(K, R, C)``, repeating the border."""
    padded = np.pad(maps, ((0, 0), (1, 1), (0, 0)), mode="edge")  # (K, R + 2, C)
    return 0.25 * padded[:, :-2] + 0.5 * padded[:, 1:-1] + 0.25 * padded[:, 2:]


def overlay(photo: Image.Image, heat: np.ndarray, part: Box | None = None) -> Image.Image:
    """Return the photo, dark and grey where the decoder looked little, with a glow where it looked.

    Args:
        photo: RGB, upright.
        heat: one map of :meth:`Tagger.heatmap`, float32 ``(R, R)`` in 0..1, stretched over the photo, as the photo was
            squashed to the model's square input.
        part: visible part of the photo, ``tagger.preprocessing.seen_part(*photo.size)``; None: all of it.
    """
    left, upper, right, lower = in_pixels(part or (0, 0, 1, 1), *photo.size)
    corner = (math.floor(left), math.floor(upper))
    size = (math.ceil(right) - corner[0], math.ceil(lower) - corner[1])
    spread = Image.new("F", photo.size)  # 0: outside the visible part
    spread.paste(Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BICUBIC), corner)
    share = np.clip(np.asarray(spread), 0, 1)[..., None]  # (H, W, 1)
    colour = np.asarray(photo, np.float32)  # (H, W, 3)
    grey = np.asarray(photo.convert("L"), np.float32)[..., None]  # (H, W, 1)
    shown = share * colour + (1 - share) * 0.45 * grey
    return Image.fromarray((shown + 0.25 * share * (_GLOW - shown)).round().astype(np.uint8))


class HeatmapFolder:
    """Writes overlays: one folder per photo, named by its path, with one picture per tag.

    Args:
        folder: ``photos/a.jpg`` with the tag "dog" becomes ``folder/photos/a.jpg/dog.jpg``.
        inputs: paths being tagged; an output folder inside them would be tagged too.

    Raises:
        UserError: it cannot be written, or is inside an input.
    """

    def __init__(self, folder: Path, inputs: Sequence[str]):
        self._folder = folder
        where = folder.resolve()
        for path in map(Path, inputs):
            if path.is_dir() and where.is_relative_to(path.resolve()):
                raise UserError(
                    f"the folder of heat maps {folder} is inside {path}, which is tagged: give a folder outside it"
                )
        with write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def write(self, path: str, labels: Sequence[str], heats: np.ndarray, preprocessing: Preprocessing) -> None:
        """Write the overlays of one photo, for K tags and their maps ``(K, R, R)``.

        Args:
            preprocessing: settings of the model, which may not see the whole photo.

        Raises:
            ImageError: the photo cannot be read.
            UserError: the overlays cannot be written.
        """
        photo = load_small(path, OVERLAY_SIDE)
        part = preprocessing.seen_part(*photo.size)
        folder = folder_inside(self._folder, _inside(path))
        for name, heat in zip(_file_names(labels), heats, strict=True):
            picture = overlay(photo, heat, part)
            write_whole(folder / name, lambda file, picture=picture: picture.save(file, "JPEG", quality=85), False)  # type: ignore[misc]


def _inside(path: str) -> Path:
    """Return the path of a photo as a relative path, without a root and without ``..``."""
    whole = Path(os.path.abspath(path)) if ".." in Path(path).parts else Path(path)  # noqa: PTH100 - follows no link
    return whole.relative_to(whole.anchor)


def _file_names(labels: Sequence[str]) -> list[str]:
    """Return a file name for each label, unique even if case is ignored."""
    names: list[str] = []
    taken: set[str] = set()
    for label in labels:
        plain = re.sub(r"[^\w -]+", "_", label).encode()[:_NAME_LENGTH].decode(errors="ignore")
        stem = name = plain.strip() or "label"
        count = 1
        while name.lower() in taken:
            count += 1
            name = f"{stem} {count}"
        taken.add(name.lower())
        names.append(f"{name}.jpg")
    return names
