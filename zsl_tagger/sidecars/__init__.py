"""Tags beside the photos, in files of their own, merged into what other programs wrote there.

Reading order: ``run.py`` (what ``tag --sidecar`` does), ``places.py`` (which file is a photo's), then a file for each
kind: ``xmp.py``, ``lines.py``, ``json_key.py``. Each of those three has the same two functions:

* ``merged(content, tags)``: a sidecar's bytes (None for no file) with these tags in place of those that this tool wrote
  before; the same object where nothing is to change, None where nothing is left in a file that this tool made. A file
  that was there and empty is empty again when nothing is left in it.
* ``ours(content)``: the keywords in it that this tool wrote.

They never parse and write anew: they cut and insert in the bytes as they are, so what they don't know survives.
"""
