"""The index of a photo library, and searching it.

In the order of the data: ``packing`` (what is kept of a photo, as bytes), ``store`` (the file), ``update`` (folders ->
the file), ``query`` (what was typed), ``rank`` (a query -> photos), ``sheet`` (photos -> a page), ``suggest`` and
``near_duplicates`` (what to look at), ``run`` (the commands). :class:`zsl_tagger.search.library.Library` is
the door from Python.
"""
