"""Index a photo library, and search it.

In the order of the data: ``packing`` (values of a photo as bytes), ``blocks`` and ``store`` (the file), ``update``
(folders -> index), ``query`` (parsing), ``rank`` (query -> photos), ``sheet`` (photos -> HTML page), ``suggest`` and
``near_duplicates`` (suggestions), ``run`` (the commands). The Python API is
:class:`zsl_tagger.search.library.Library`.
"""
