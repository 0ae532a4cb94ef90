"""Files, threads, signals, messages and pickles. Knows nothing of images or words."""

import logging

#: The loggers of the two packages, above those of their modules.
PACKAGES = ("zsl_tagger", "data_prep")

for _name in PACKAGES:  # a program that sets up no logging sees nothing, no warnings either
    logging.getLogger(_name).addHandler(logging.NullHandler())
