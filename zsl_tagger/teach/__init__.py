"""``zsl-tagger teach``: tags from a person's own photos, with the photos of an index beside them.

``run.py`` and ``from_library.py`` are the command. ``review.py`` is the review of an index, with ``marks.py`` (yes and
no, as they are kept) and ``writing.py`` (sidecars after a preview); its page is in :mod:`zsl_tagger.serve`. How a tag
is learned and kept is in :mod:`zsl_tagger.tagging` (``pooled``, ``reader``, ``teaching``, ``taught``).
"""
