"""Teach tags from a user's own photos, optionally compared with the photos of an index (``zsl-tagger teach``).

``run.py`` and ``from_library.py`` implement the command. ``review.py`` is the logic of the library page of
:mod:`zsl_tagger.serve`, with ``marks.py`` (the user's yes and no) and ``writing.py`` (sidecars after a preview).
Learning and storing a tag is in :mod:`zsl_tagger.tagging` (``pooled``, ``reader``, ``teaching``, ``taught``).
"""
