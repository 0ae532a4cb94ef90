"""Slow, obvious implementations that the fast ones are compared with. Nothing here imports zsl_tagger."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Weights = Mapping[str, Tensor]


def ml_decoder(weights: Weights, heads: int, tokens: Tensor, words: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Evaluation-mode ML-Decoder (arXiv 2111.12933, section 3): one image, one query, one head at a time.

    Args:
        weights: the head's state dict.
        tokens: ``(B, L, C)``.
        words: word vectors ``(K, word_dim)``; None for a closed set.

    Returns:
        logits ``(B, K)`` and the attention ``(B, number of queries, L)``, mean over heads; float64.
    """
    weights = {name: weight.double() for name, weight in weights.items()}
    if words is None:
        queries = list(weights["group_queries"])
    else:
        queries = [_relu(_linear(weights, "word_embed", word)) for word in words.double()]
    logits, attention = [], []
    for image in tokens.double():
        places = [_relu(_linear(weights, "embed", token)) for token in image]
        states, looks = zip(*(_decode(weights, heads, query, places) for query in queries), strict=True)
        logits.append(_closed_set_logits(weights, states) if words is None else _word_logits(weights, states))
        attention.append(torch.stack(looks))
    return torch.stack(logits), torch.stack(attention)


def _decode(weights: Weights, heads: int, query: Tensor, places: list[Tensor]) -> tuple[Tensor, Tensor]:
    """One query over the places of one image -> its state ``(D,)`` and its attention ``(L,)``."""
    t = _layer_norm(weights, "layer.norm1", query + query)
    mixed, look = _attend(weights, heads, t, places)
    t = _layer_norm(weights, "layer.norm2", t + mixed)
    ffn = _linear(weights, "layer.linear2", _relu(_linear(weights, "layer.linear1", t)))
    return _layer_norm(weights, "layer.norm3", t + ffn), look


def _attend(weights: Weights, heads: int, query: Tensor, places: list[Tensor]) -> tuple[Tensor, Tensor]:
    q = _linear(weights, "layer.attention.q", query)
    keys = [_linear(weights, "layer.attention.k", place) for place in places]
    values = [_linear(weights, "layer.attention.v", place) for place in places]
    width = len(q) // heads
    outputs, looks = [], []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        look = _softmax([float((q[part] * key[part]).sum()) / math.sqrt(width) for key in keys])
        outputs.append(
            sum((share * value[part] for share, value in zip(look, values, strict=True)), torch.zeros(width))
        )
        looks.append(look)
    mean = [sum(shares) / heads for shares in zip(*looks, strict=True)]
    return _linear(weights, "layer.attention.out", torch.cat(outputs)), torch.tensor(mean, dtype=torch.float64)


def _closed_set_logits(weights: Weights, states: tuple[Tensor, ...]) -> Tensor:
    """Class c is answered by query c // f, with column c % f of its weights."""
    group_weight, bias = weights["group_weight"], weights["bias"]  # (G, D, f), (K,)
    f = group_weight.shape[2]
    return torch.stack(
        [(states[c // f] * group_weight[c // f, :, c % f]).sum() + bias[c] for c in range(len(bias))]
    )  # (K,)


def _word_logits(weights: Weights, states: tuple[Tensor, ...]) -> Tensor:
    shared = weights["group_weight"][0, :, 0]  # (D,)
    return torch.stack([(state * shared).sum() + weights["bias"][0] for state in states])  # (K,)


def _linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    rows = zip(weights[f"{name}.weight"], weights[f"{name}.bias"], strict=True)
    return torch.stack([(row * x).sum() + bias for row, bias in rows])


def _relu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, torch.zeros_like(x))


def _layer_norm(weights: Weights, name: str, x: Tensor) -> Tensor:
    mean = x.sum() / len(x)
    variance = ((x - mean) ** 2).sum() / len(x)
    return (x - mean) / (variance + 1e-5).sqrt() * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _softmax(scores: list[float]) -> list[float]:
    powers = [math.exp(score - max(scores)) for score in scores]
    return [power / sum(powers) for power in powers]


def class_reading(weight: Tensor, bias: Tensor, class_vectors: Tensor, scale: float, token: Tensor) -> Tensor:
    """One token ``(C,)`` -> the token and its reading ``(C + word_dim,)``."""
    shares = _softmax([float((row * token).sum() + b) for row, b in zip(weight, bias, strict=True)])
    reading = sum((p * vector for p, vector in zip(shares, class_vectors, strict=True)), torch.zeros(()))
    return torch.cat([token, scale * reading])


def asymmetric_loss(logit: float, target: float, gamma_neg: float, gamma_pos: float, clip: float) -> float:
    """Equation 4 to 7 of arXiv 2009.14119 for one logit."""
    p = 1 / (1 + math.exp(-logit))
    shifted = max(p - clip, 0.0)
    positive = (1 - p) ** gamma_pos * math.log(p)
    negative = shifted**gamma_neg * math.log(1 - shifted)
    return -target * positive - (1 - target) * negative


def asymmetric_loss_gradient(
    logit: float, target: float, gamma_neg: float, gamma_pos: float, clip: float, focal_gradient: bool
) -> float:
    """Return the derivative by the logit, worked out by hand; without ``focal_gradient`` the powers are constants."""
    p = 1 / (1 + math.exp(-logit))
    shifted, slope = max(p - clip, 0.0), p * (1 - p) if p > clip else 0.0
    positive = (1 - p) ** gamma_pos * (1 - p)
    negative = -(shifted**gamma_neg) * slope / (1 - shifted)
    if focal_gradient and gamma_pos:
        positive -= gamma_pos * (1 - p) ** (gamma_pos - 1) * p * (1 - p) * math.log(p)
    if focal_gradient and gamma_neg and slope:
        negative += gamma_neg * shifted ** (gamma_neg - 1) * slope * math.log(1 - shifted)
    return -target * positive - (1 - target) * negative


def asymmetric_loss_single(
    logits: list[float], target: int, gamma_neg: float, gamma_pos: float, smoothing: float, focal_gradient: bool
) -> tuple[float, list[float]]:
    """Return the released single-label loss of one image of class ``target`` and its gradient, worked out by hand."""
    count, p = len(logits), _softmax(logits)
    loss, gradient = 0.0, [0.0] * count
    for k in range(count):
        own = k == target
        smoothed = (1 - smoothing if own else 0.0) + smoothing / count
        weight = (1 - p[k]) ** gamma_pos if own else p[k] ** gamma_neg
        slope = -gamma_pos * (1 - p[k]) ** (gamma_pos - 1) if own else gamma_neg * p[k] ** (gamma_neg - 1)  # by p_k
        loss -= smoothed * weight * math.log(p[k])
        for j in range(count):
            by_logit = float(j == k) - p[j]  # of log p_k
            gradient[j] -= smoothed * weight * by_logit
            if focal_gradient:
                gradient[j] -= smoothed * slope * p[k] * by_logit * math.log(p[k])
    return loss, gradient


def precision_recall_f1_at_k(scores: np.ndarray, targets: np.ndarray, k: int) -> tuple[float, float, float]:
    """Micro precision, recall and F1 of the k best labels of each image; the first of equals wins."""
    hits = answers = positives = 0
    for image_scores, image_targets in zip(scores, targets, strict=True):
        ranked = sorted(range(len(image_scores)), key=lambda label: (-image_scores[label], label))
        hits += sum(int(image_targets[label]) for label in ranked[:k])
        answers += k
        positives += int(image_targets.sum())
    precision, recall = hits / answers, hits / positives if positives else 0.0
    return precision, recall, 2 * precision * recall / (precision + recall) if hits else 0.0


# --- rankings: one image, one label at a time ----------------------------------------------------------------

Column = Sequence[Any] | np.ndarray


def ranking(scores: Column, known: Column, last: bool = False) -> list[int]:
    """Places from the highest score on; of equal scores the earlier place, or the later one."""
    places = [place for place in range(len(scores)) if known[place]]
    return sorted(places[::-1] if last else places, key=lambda place: -scores[place])


def average_precision(scores: Column, targets: Column, known: Column, ties: str) -> float:
    """One label: the mean over positives of the share of positives among all that are ranked no later.

    Grouped, no later is: with at least its score.
    """
    shares = []
    ranked = ranking(scores, known, ties == "last")
    for place, image in enumerate(ranked):
        if targets[image]:
            above = [i for i in ranked if scores[i] >= scores[image]] if ties == "grouped" else ranked[: place + 1]
            shares.append(sum(int(targets[i]) for i in above) / len(above))
    return sum(shares) / len(shares) if shares else math.nan


def weighted_average_precision(scores: Column, targets: Column, known: Column, counts: Column, ties: str) -> float:
    """One label, images drawn ``counts`` times: an image's copies stand at one place and are counted together."""
    total, answers, hits, positives = 0.0, 0, 0, 0
    for image in ranking(scores, known, ties == "last"):
        answers += int(counts[image])
        if targets[image] and counts[image]:
            hits += int(counts[image])
            total += int(counts[image]) * hits / answers
            positives += int(counts[image])
    return total / positives if positives else math.nan


def hits_at_k(scores: Column, targets: Column, known: Column, k: int, ties: str) -> float:
    """One image; grouped: the mean over every order in which the labels may stand."""
    if ties == "grouped":
        orders = list(itertools.permutations([place for place in range(len(scores)) if known[place]]))
        tops = [sorted(order, key=lambda place: -scores[place])[:k] for order in orders]
        return sum(int(targets[place]) for top in tops for place in top) / len(tops)
    return float(sum(int(targets[place]) for place in ranking(scores, known, ties == "last")[:k]))


def recalls_at_bias(
    scores: np.ndarray, targets: np.ndarray, seen: np.ndarray, k: int, bias: float
) -> tuple[float, float]:
    """Recall@k of seen and of unseen positives with a bias on unseen scores; of equals the seen label is first."""
    hits = [0, 0]
    for row, truth in zip(scores, targets, strict=True):
        ranked = sorted(range(len(row)), key=lambda k: (-(row[k] if seen[k] else row[k] + bias), not seen[k]))
        for label in ranked[:k]:
            hits[0 if seen[label] else 1] += int(truth[label])
    positives = [int(targets[:, part].sum()) for part in (seen, ~seen)]
    return hits[0] / max(positives[0], 1), hits[1] / max(positives[1], 1)
