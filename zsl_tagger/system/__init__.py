"""Files, threads, signals, messages and pickles, independent of images and words."""

import logging

#: Top-level loggers of the two packages.
PACKAGES = ("zsl_tagger", "data_prep")

for _name in PACKAGES:  # without logging set up, a program sees nothing, not even warnings
    logging.getLogger(_name).addHandler(logging.NullHandler())
