"""Photos -> cached features of the frozen backbone, several views of each, resumable.

A view is one way of showing a photo. Its features are taken just before the backbone's last 1x1 convolution
(352 channels instead of 1,280), which training then applies itself. Small views are the parts of mosaics:
tokens carry no position, so the tokens of 4 photos at half size (or 9 at a third) side by side are, borders
aside, those of the mosaic of the 4 photos, for nothing and in new combinations at each step.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from zsl_tagger.images.preprocessing import load_array
from zsl_tagger.model.backbone import Backbone

TRUNK_CHANNELS = 352
STRIDE = 32
CHUNK = 256  # photos a file: what an interrupted run may lose


@dataclass(frozen=True)
class View:
    """``name`` decides the random crops, so that views differ; ``size`` in pixels."""

    name: str
    size: int
    crop: bool = False
    flip: bool = False

    @property
    def tokens(self) -> int:
        return (self.size // STRIDE) ** 2


FULL_VIEWS = (View("full", 384), View("flip", 384, flip=True), View("cropA", 384, crop=True))
HALF_VIEWS = (View("half", 192), View("halfflip", 192, flip=True))
THIRD_VIEWS = (View("third", 128), View("thirdflip", 128, flip=True))
ALL_VIEWS = FULL_VIEWS + HALF_VIEWS + THIRD_VIEWS


class Trunk(nn.Module):
    """The EfficientNet-Lite backbone up to its last block: normalised images -> ``(B, 352, h, w)``."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.network = backbone.network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.blocks(self.network.bn1(self.network.conv_stem(images)))


def export_trunk(backbone: Backbone, path: Path) -> None:
    """ONNX Runtime runs the trunk about three times as fast as torch on a CPU."""
    axes = {"images": {0: "b", 2: "h", 3: "w"}, "features": {0: "b", 2: "i", 3: "j"}}
    torch.onnx.export(
        Trunk(backbone).eval(),
        (torch.zeros(1, 3, 64, 64),),
        str(path),
        input_names=["images"],
        output_names=["features"],
        dynamic_axes=axes,
        dynamo=False,
    )


def cache_features(
    photos: Path, files: list[str], views: tuple[View, ...], trunk: Path, cache: Path, processes: int
) -> None:
    """Fill ``cache`` with ``<view>-<size>.<chunk>.npy``, float16 (photos, tokens, 352); existing chunks are kept."""
    cache.mkdir(parents=True, exist_ok=True)
    jobs = [
        (photos, files[start : start + CHUNK], start, view, trunk, _chunk_path(cache, view, start))
        for view in views
        for start in range(0, len(files), CHUNK)
    ]
    jobs = [job for job in jobs if not job[-1].exists()]
    with Pool(processes) as pool:
        for done, _ in enumerate(pool.imap_unordered(_cache_chunk, jobs), start=1):
            print(f"features: {done} of {len(jobs)} chunks", end="\r", flush=True)


def read_features(cache: Path, view: View, count: int) -> Callable[[int], np.ndarray]:
    """Row reader: photo index -> float16 ``(tokens, 352)``."""
    chunks = [np.load(_chunk_path(cache, view, start), mmap_mode="r") for start in range(0, count, CHUNK)]
    return lambda index: chunks[index // CHUNK][index % CHUNK]


def trunk_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def trunk_features(session: onnxruntime.InferenceSession, image: np.ndarray) -> np.ndarray:
    """uint8 ``(S, S, 3)`` -> float16 ``(tokens, 352)``."""
    x = (image.astype(np.float32) / 127.5 - 1.0).transpose(2, 0, 1)[None]  # (1, 3, S, S)
    features = session.run(None, {"images": x})[0][0]  # (352, h, w)
    return features.reshape(TRUNK_CHANNELS, -1).T.astype(np.float16)


def _chunk_path(cache: Path, view: View, start: int) -> Path:
    return cache / f"{view.name}-{view.size}.{start // CHUNK:04d}.npy"


def _cache_chunk(job: tuple[Path, list[str], int, View, Path, Path]) -> None:
    photos, files, start, view, trunk, path = job
    session = trunk_session(trunk, threads=1)
    rows = [trunk_features(session, view_array(photos / file, start + i, view)) for i, file in enumerate(files)]
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.save(file, np.stack(rows))
    partial.rename(path)


def view_array(path: Path, index: int, view: View) -> np.ndarray:
    """uint8 ``(size, size, 3)``."""
    if not (view.crop or view.flip):
        return load_array(path, view.size)
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    if view.crop:
        image = _random_crop(image, random.Random(f"{view.name}{index}"))
    elif view.flip:
        image = ImageOps.mirror(image)
    return load_array(image, view.size)


def _random_crop(image: Image.Image, rng: random.Random) -> Image.Image:
    """35 to 85 % of the area, sides' ratio changed by up to 1.4, mirrored half of the time."""
    area, ratio = rng.uniform(0.35, 0.85), float(np.exp(rng.uniform(-0.35, 0.35)))
    width, height = min(1.0, (area * ratio) ** 0.5), min(1.0, (area / ratio) ** 0.5)
    left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    box = (left * image.width, top * image.height, (left + width) * image.width, (top + height) * image.height)
    image = image.crop(tuple(round(edge) for edge in box))  # type: ignore[arg-type]
    return ImageOps.mirror(image) if rng.random() < 0.5 else image
