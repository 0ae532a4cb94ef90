"""Record the settings that the tags of a run depend on, so that a later run can compare them.

The images and the number of workers are not included.
"""

from __future__ import annotations

import hashlib

import numpy as np

from zsl_tagger.bulk.engine import TagRequest
from zsl_tagger.errors import some
from zsl_tagger.images.preprocessing import PREPROCESSING_VERSION
from zsl_tagger.records.base import Settings
from zsl_tagger.tagging.tagger import EXACT_UP_TO, Tagger


def settings_of(tagger: Tagger, request: TagRequest) -> Settings:
    """Return the settings that a run's tags depend on.

    Independent of label order. Long lists and model files are represented by a truncated SHA-256.
    """
    labels, threshold = request.labels, request.threshold
    order = np.argsort(labels.labels, kind="stable")
    changes = tagger.preprocessing.other_than_usual()
    names = [labels.labels[index] for index in order]
    evidence = []
    if labels.evidence is not None:
        evidence = [labels.evidence.scales, labels.evidence.weights, labels.evidence.offsets]
        if labels.evidence.object_weights.any():  # records of models without objects can still be continued
            evidence.append(labels.evidence.object_weights)
    taught = [labels.readers[index] for index in order if index in labels.readers]
    fingerprint = _short(
        "\n".join(names).encode(errors="surrogatepass"),
        *(values[order] for values in (labels.queries, labels.biases, *evidence)),
        *(part for reader in taught for part in (reader.weights, np.array([reader.offset, reader.word_weight]))),
    )
    return {
        "model": f"networks {tagger.folder.networks_sha256()[:16]}",
        "labels": f"{some(names)} ({fingerprint})",
        "threshold": threshold if threshold is not None else f"each label's own ({_short(labels.thresholds[order])})",
        "parents and synonyms": "said too" if labels.implied is None else "said once",
        "top-k": request.top_k,
        "exact": request.exact or len(labels) <= EXACT_UP_TO,
        "preprocessing": f"{PREPROCESSING_VERSION}, {changes}" if changes else PREPROCESSING_VERSION,
    }


def _short(*parts: bytes | np.ndarray) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()[:16]
