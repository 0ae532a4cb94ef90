"""Write tags to sidecar files next to the photos, merged with what other programs wrote there.

Reading order: ``run.py`` (``tag --sidecar``), ``places.py`` (which file belongs to which photo), then one file per
format: ``xmp.py``, ``lines.py``, ``json_key.py``. Each of these three has the same two functions:

* ``merged(content, tags)``: the bytes of a sidecar (None for no file) in which these tags replace our previous ones.
  It is the same object if nothing changes, and None if nothing is left in a file that this tool created. A file that
  existed and was empty becomes empty again.
* ``owned_keywords(content)``: the keywords in the sidecar that this tool wrote.

They never reserialise a file: they cut and insert in the original bytes, so that unknown content is preserved.
"""
