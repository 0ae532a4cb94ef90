"""Fit the prefilter of a model (:mod:`zsl_tagger.tagging.prefilter`): ``python -m zsl_tagger.packaged.prefilter``.

It imitates the decoder, so the photos need no annotation. Ridge regressions, one for each label, are fitted on the
logits of some photos, and the tags that the prefilter would lose are counted on others.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import typer
from torch import Tensor

from zsl_tagger.errors import UserError
from zsl_tagger.export.networks import write_prediction
from zsl_tagger.export.precision import halve
from zsl_tagger.model.ml_decoder import MLDecoder
from zsl_tagger.model.pretrained import load_model
from zsl_tagger.model.tagger_model import PredictionForExport
from zsl_tagger.packaged.card import update_card
from zsl_tagger.packaged.folders import photos_in
from zsl_tagger.system.files import write_errors
from zsl_tagger.system.messages import show_messages
from zsl_tagger.system.progress import Progress
from zsl_tagger.system.threads import available_cores, map_in_order
from zsl_tagger.tagging.prefilter import PREFILTER_FILE, PREFILTER_NETWORK, Prefilter
from zsl_tagger.tagging.tagger import Tagger

FITTED, CHECKED = 14_000, 1500  # photos
FEWEST = 10
MARGIN = 2.0  # log-odds
RIDGE = 1e-3  # of the mean variance of the values
#: Weight of a photo in the regression of a label that is far below its threshold; it rises to 1 around ``NEAR``.
FAR, NEAR = 0.05, -2.0
LABELS_AT_ONCE, PHOTOS_AT_ONCE = 64, 16


class Sample(NamedTuple):
    """N photos with the logits of the vocabulary.

    Attributes:
        tokens: averaged tokens, float32 ``(N, P, D)``.
        logits: exact logits, float32 ``(N, K)``.
        scales: change of the log-odds for a change of the logit, float32 ``(N, K)``.
        above: log-odds minus those of the label's threshold, float32 ``(N, K)``; from 0, the label is a tag.
    """

    tokens: Tensor
    logits: Tensor
    scales: Tensor
    above: Tensor

    def of(self, rows: slice) -> Sample:
        """Return some of the photos."""
        return Sample(*(values[rows] for values in self))


def write_prefilter(folder: Path, photos: Sequence[Path]) -> str:
    """Fit the prefilter of a model folder to some of the photos, write its files and return how good it is.

    Raises:
        UserError: there are too few photos, one cannot be read, the model's head is not an MLDecoder with word queries,
            or the disk is full.
    """
    if len(photos) < FEWEST:
        raise UserError(f"expected at least {FEWEST} photos to fit the prefilter to, got {len(photos)}")
    chosen = np.random.default_rng(0).permutation(len(photos))[: FITTED + CHECKED].tolist()
    tagger = Tagger(folder, workers=available_cores(), taught=False)
    labels, model = tagger.vocabulary, load_model(folder)
    if not isinstance(model.head, MLDecoder) or model.head.num_classes is not None:
        raise UserError(f"{folder} cannot have a prefilter: expected an MLDecoder with word queries as its head")
    network = PredictionForExport(model).eval()
    places = tagger.encode(photos[0]).tokens.shape[1]
    with torch.inference_mode():
        sample = _sample(tagger, network, [photos[number] for number in chosen])
        projected = model.head.prepare(torch.from_numpy(labels.queries)).projected  # (K, D)
        checked = len(chosen) * CHECKED // (FITTED + CHECKED)
        slopes, offsets = _fit(network, sample.of(slice(checked, None)), projected)
        prefilter = Prefilter(labels.keys, slopes.numpy(), offsets.numpy(), MARGIN)
        with write_errors(folder):
            write_prediction(network, folder / PREFILTER_NETWORK, places)
            halve(folder / PREFILTER_NETWORK, folder / PREFILTER_NETWORK)
            prefilter.save(folder / PREFILTER_FILE)  # last: without it, the network is not used
        return _figures(network, sample.of(slice(checked)), projected, prefilter)


def _sample(tagger: Tagger, network: PredictionForExport, photos: Sequence[Path]) -> Sample:
    """Encode photos, and score the vocabulary on them."""
    labels = tagger.vocabulary
    floors = np.log(labels.thresholds / (1 - labels.thresholds))

    def work(photo: Path) -> tuple[Tensor, ...]:
        encoded = tagger.encode(photo)
        logits = tagger.logits(encoded, labels)[0]  # (K,)
        scales, added = labels.terms(encoded.classes, labels.probed(encoded))  # (K,), (K,)
        averaged = network.averaged(torch.from_numpy(encoded.tokens))[0]  # (P, D)
        above = scales * logits + added - floors
        return averaged, *(torch.from_numpy(values.astype(np.float32)) for values in (logits, scales, above))

    rows = []
    with Progress("scoring", len(photos), unit="photos") as progress:
        for row in map_in_order(work, photos, tagger.workers):
            rows.append(row)
            progress.advance()
    return Sample(*(torch.stack(values) for values in zip(*rows, strict=True)))


def _fit(network: PredictionForExport, sample: Sample, projected: Tensor) -> tuple[Tensor, Tensor]:
    """Return the slopes ``(K, D)`` and offsets ``(K,)`` of ridge regressions from values to logits."""
    slopes, offsets = [], []
    with Progress("fitting", len(projected), unit="labels") as progress:
        for start in range(0, len(projected), LABELS_AT_ONCE):
            some = slice(start, start + LABELS_AT_ONCE)
            x = _values(network, sample.tokens, projected[some]).transpose(0, 1)  # (N, k, D) -> (k, N, D)
            y = sample.logits[:, some].T[:, :, None]  # (k, N, 1)
            weights = FAR + torch.sigmoid(sample.above[:, some] - NEAR)  # (N, k)
            weights = (weights / weights.sum(0)).T[:, :, None]  # (k, N, 1)
            x_mean, y_mean = (weights * x).sum(1, keepdim=True), (weights * y).sum(1, keepdim=True)  # (k, 1, D or 1)
            centred = x - x_mean
            weighted = (weights * centred).mT  # (k, D, N)
            gram = weighted @ centred  # (k, D, D)
            ridge = RIDGE * gram.diagonal(dim1=1, dim2=2).mean(1)  # (k,)
            gram += ridge[:, None, None] * torch.eye(gram.shape[1])
            slope = torch.linalg.solve(gram, weighted @ (y - y_mean))  # (k, D, 1)
            slopes.append(slope[:, :, 0])
            offsets.append((y_mean - x_mean @ slope)[:, 0, 0])
            progress.advance(len(slope))
    return torch.cat(slopes), torch.cat(offsets)


def _values(network: PredictionForExport, tokens: Tensor, projected: Tensor) -> Tensor:
    """Return the values ``(N, k, D)`` of averaged tokens ``(N, P, D)``."""
    return torch.cat([network.values(part, projected) for part in tokens.split(PHOTOS_AT_ONCE)])


def _figures(network: PredictionForExport, sample: Sample, projected: Tensor, prefilter: Prefilter) -> str:
    """Say how many tags the prefilter loses, and how many labels it leaves to be scored."""
    slopes, offsets = torch.from_numpy(prefilter.slopes), torch.from_numpy(prefilter.offsets)
    parts = sample.tokens.split(PHOTOS_AT_ONCE)
    predicted = torch.cat([(network.values(part, projected) * slopes).sum(-1) for part in parts]) + offsets  # (N, K)
    errors = predicted - sample.logits
    nearest = sample.above + sample.scales * errors  # as above, but predicted
    tags, possible = sample.above >= 0, nearest >= -prefilter.margin
    unusual = (tags & possible & (nearest < -prefilter.margin / 2)).any(1)  # (N,), of which all labels are scored
    lost = tags & ~possible & ~unusual[:, None]
    return (
        f"prefilter: off by {errors.square().mean().sqrt():.2f} logits; {int(lost.sum()):,} of {int(tags.sum()):,} "
        f"tags lost on {len(tags):,} photos; {possible.sum(1).float().mean():.0f} of {tags.shape[1]:,} labels scored, "
        f"and all on {int(unusual.sum()):,} photos"
    )


def main(
    photos: Annotated[Path, typer.Option(help="Folder with imagenet1k/, caltech101/, scenes/ and more/.")],
    model: Annotated[Path, typer.Option(help="Model folder, whose prefilter is written.")],
) -> None:
    """Fit the prefilter of a model folder to photos, and update its card."""
    show_messages(logging.INFO)
    try:
        print(write_prefilter(model, photos_in(photos)))
        update_card(model)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    typer.run(main)
