"""``zsl-tagger teach``: tags from a person's own photos, with the photos of an index beside them.

How a tag is learned and kept is in :mod:`zsl_tagger.tagging` (``pooled``, ``reader``, ``teaching``, ``taught``).
"""
