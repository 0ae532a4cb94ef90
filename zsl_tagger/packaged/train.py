"""Training of the packaged tagger's head on cached features; checkpointed, resumable, seeded."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsl_tagger.evaluation.metrics import average_precision
from zsl_tagger.model.class_reading import ClassReading
from zsl_tagger.model.ml_decoder import MLDecoder
from zsl_tagger.packaged.sampling import Batch, Sampler
from zsl_tagger.training.checkpoint import fingerprint
from zsl_tagger.training.losses import asymmetric_loss

BACKBONE_CHANNELS = 1280


@dataclass(frozen=True)
class TrainConfig:
    """Settings of the head's training; chosen on the held-out photos and coco100 (see benchmarks/README.md)."""

    steps: int = 3500
    batch_size: int = 32
    labels_a_step: int = 384
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    warmup: float = 0.15
    gamma_neg: float = 2.0
    random_weight: float = 3.0
    keep_tokens: int = 108
    query_noise: float = 0.1
    dim: int = 256
    ffn_dim: int = 512
    ema: float = 0.998
    seed: int = 0
    checkpoint_every: int = 250


class HeadOnTrunk(nn.Module):
    """What is trained, over trunk features: last convolution (folded, frozen) -> reading -> head."""

    conv_weight: Tensor
    conv_bias: Tensor

    def __init__(self, conv_weight: Tensor, conv_bias: Tensor, reading: ClassReading, head: MLDecoder):
        super().__init__()
        self.register_buffer("conv_weight", conv_weight)
        self.register_buffer("conv_bias", conv_bias)
        self.reading, self.head = reading, head

    def tokens(self, features: Tensor) -> Tensor:
        """``(B, L, 352)`` -> backbone tokens ``(B, L, 1280)``: a 1x1 convolution is a linear layer per token."""
        return F.linear(features, self.conv_weight, self.conv_bias).clamp(0, 6)

    def forward(self, features: Tensor, queries: Tensor) -> Tensor:
        return self.head(self.reading(self.tokens(features)), queries)


def fold_last_convolution(network: Any) -> tuple[Tensor, Tensor]:
    """EfficientNet-Lite's conv_head and its batch norm as one weight ``(1280, 352)`` and bias ``(1280,)``."""
    norm = network.bn2
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
    weight = network.conv_head.weight.detach().flatten(1) * scale[:, None]
    return weight, norm.bias.detach() - norm.running_mean * scale


class Trainer:
    """Runs the steps; everything that a resumed run needs is in one checkpoint file, written atomically."""

    def __init__(self, model: HeadOnTrunk, sampler: Sampler, word_vectors: Tensor, config: TrainConfig, folder: Path):
        self.model, self.sampler, self.word_vectors, self.config = model, sampler, word_vectors, config
        self.path = folder / "checkpoint.pt"
        targets = sampler.targets
        self.data = fingerprint(targets.words, targets.values, targets.weights, word_vectors.numpy())
        self.ema = {name: value.clone() for name, value in model.state_dict().items()}
        self.optimizer = torch.optim.AdamW(
            model.head.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, config.learning_rate, total_steps=config.steps, pct_start=config.warmup
        )
        self.step = 0

    def run(self) -> dict[str, Tensor]:
        """Train to the end, from the checkpoint where there is one; returns the averaged weights."""
        self._resume()
        self.model.train()
        start, first, losses = time.monotonic(), self.step, []
        while self.step < self.config.steps:
            losses.append(self._train_step())
            if self.step % self.config.checkpoint_every == 0 or self.step == self.config.steps:
                self._save()
                pace = (time.monotonic() - start) / (self.step - first)
                left = pace * (self.config.steps - self.step) / 60
                print(f"step {self.step}: loss {np.mean(losses):.3f}, {pace:.2f} s a step, {left:.0f} min left")
                losses.clear()
        return self.ema

    def _train_step(self) -> float:
        # Seeded by step: a resumed run draws what an uninterrupted one would have drawn.
        rng = np.random.default_rng([self.config.seed, self.step])
        torch.manual_seed(self.config.seed * 1_000_003 + self.step)
        batch = self.sampler.batch(self.config.batch_size, self.step / self.config.steps, rng)
        loss = self._loss(batch)
        if not torch.isfinite(loss):
            raise RuntimeError(f"loss is {loss.item()} at step {self.step}; the checkpoint of before is kept")
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self._average()
        self.step += 1
        return loss.item()

    def _loss(self, batch: Batch) -> Tensor:
        queries = self.word_vectors[batch.asked]
        queries = queries + torch.randn_like(queries) * self.config.query_noise / queries.shape[1] ** 0.5
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = self.model(batch.features, queries)
        loss = asymmetric_loss(logits.float(), batch.values, gamma_neg=self.config.gamma_neg, clip=0.0)
        return (loss * batch.weights).sum() / self.config.batch_size / 10

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        for name, value in self.model.state_dict().items():
            self.ema[name].lerp_(value, 1 - decay)

    def _save(self) -> None:
        partial = self.path.with_suffix(".partial")
        state = {
            "config": asdict(self.config),
            "data": self.data,
            "step": self.step,
            "head": self.model.head.state_dict(),
            "ema": self.ema,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }
        torch.save(state, partial)
        partial.replace(self.path)

    def _resume(self) -> None:
        if not self.path.exists():
            return
        state = torch.load(self.path, weights_only=True)
        if state["config"] != asdict(self.config) or state["data"] != self.data:
            raise SystemExit(f"{self.path} was written with other settings, photos or words; remove it or restore them")
        self.model.head.load_state_dict(state["head"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.ema, self.step = state["ema"], state["step"]
        print(f"resumed at step {self.step}")


@torch.inference_mode()
def predict(model: HeadOnTrunk, features: list[np.ndarray], queries: Tensor) -> np.ndarray:
    """Scores 0..1 ``(N, K)`` of whole photos' features."""
    model.eval()
    return np.concatenate([model(torch.from_numpy(row[None]).float(), queries).sigmoid() for row in features])


def mean_average_precision(scores: np.ndarray, targets: np.ndarray, least: int) -> tuple[float, int]:
    """mAP over the labels with at least ``least`` positives, and how many those are."""
    columns = targets.sum(axis=0) >= least
    return float(np.mean(average_precision(scores[:, columns], targets[:, columns]))), int(columns.sum())
