"""The definitions of "mAP" and "F1@K" in published zero-shot work, no two of which are the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zsl_tagger.errors import UserError
from zsl_tagger.evaluation.metrics import Ties


@dataclass(frozen=True)
class Protocol:
    """A definition of the metrics. A subclass may change which images count, or how average precisions are averaged.

    Attributes:
        ap_ties, top_ties: treatment of equal scores in average precision and at K
            (:mod:`zsl_tagger.evaluation.metrics`).
        empty_is_zero: a label without positives has average precision 0; otherwise it is excluded from the mean.
        needs_label: each task excludes images that show none of its labels.
        masks_ignored: unannotated entries are excluded from average precision; otherwise they count as false.
        ranks_ignored: unannotated entries may be among the K best, where they count as wrong.
        source: the code that it follows, for the report.
        ks: the published K of P/R/F1@K.
        drops_unannotated: a label that is not annotated on any image is excluded from the mean, regardless of
            ``empty_is_zero``.
    """

    name: str
    ap_ties: Ties
    top_ties: Ties
    empty_is_zero: bool
    needs_label: bool
    masks_ignored: bool
    ranks_ignored: bool
    source: str
    ks: tuple[int, ...] = (3, 5)
    drops_unannotated: bool = False

    def keeps(self, targets: np.ndarray) -> np.ndarray:
        """Return which images a task is evaluated on, bool ``(N,)``.

        Args:
            targets: bool ``(N, k)`` of the task's labels.
        """
        return np.asarray(targets.any(axis=1)) if self.needs_label else np.ones(len(targets), bool)

    def which_images(self) -> str:
        """Describe which images :meth:`keeps` selects."""
        if self.needs_label:
            return "ZSL: images with an unseen label; seen: with a seen label; GZSL: with any label"
        return "all images of the split"

    def mean(self, precisions: np.ndarray) -> float:
        """Return the mAP of average precisions ``(K,)``, which are NaN without positives; NaN if no label is left."""
        if self.empty_is_zero:
            return float(np.nan_to_num(precisions).mean()) if len(precisions) else float("nan")
        known = precisions[np.isfinite(precisions)]
        return float(known.mean()) if len(known) else float("nan")

    def sentences(self) -> list[str]:
        """Return the definition in words."""
        ties = {
            "grouped": "equal scores are one step", "first": "of equal scores the earlier image is first",
            "last": "of equal scores the later image is first",
        }  # fmt: skip
        top = {
            "grouped": "equal scores share the last places", "first": "of equal scores the earlier label",
            "last": "of equal scores the later label",
        }  # fmt: skip
        empty = "counts as 0" if self.empty_is_zero else "is left out of the mean"
        empty += ", one that nobody annotated is left out of the mean" if self.drops_unannotated else ""
        ignored = "left out" if self.masks_ignored else "false"
        return [
            f"mAP: mean over labels of average precision; {ties[self.ap_ties]}; a label without positives {empty}",
            f"P/R/F1@K: micro, the K best labels of every image; {top[self.top_ties]}",
            f"CP/CR/CF1: means over labels, one without positives {empty}; OP/OR/OF1: all tags of all images together",
            f"images: {self.which_images()}",
            f"entries that nobody annotated: {ignored}",
            self.source,
        ]


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("strict", "grouped", "grouped", False, False, True, False,
                 "zsl-tagger's own: nothing depends on the order of images or labels"),
        Protocol("mld", "last", "first", True, True, False, True,
                 "the released ML-Decoder code (mAP of ZSL) and ZS_SDL's (ZSL and GZSL: mAP, F1@K)"),
        Protocol("lesa", "grouped", "last", True, False, True, True, "the released LESA code on NUS-WIDE"),
        Protocol("biam", "first", "first", True, False, True, True, "the released BiAM and MKT code on NUS-WIDE"),
        Protocol("lesa-openimages", "grouped", "last", True, False, True, True,
                 "the released LESA code on OpenImages", ks=(10, 20)),
        Protocol("biam-openimages", "first", "first", True, True, True, True,
                 "the released BiAM code on OpenImages", ks=(10, 20), drops_unannotated=True),
    )
}  # fmt: skip


def protocol_named(name: str) -> Protocol:
    """Return a protocol by its name.

    Raises:
        UserError: there is no such protocol.
    """
    if name not in PROTOCOLS:
        raise UserError(f"expected --protocol {', '.join(PROTOCOLS)}; got {name!r}")
    return PROTOCOLS[name]
