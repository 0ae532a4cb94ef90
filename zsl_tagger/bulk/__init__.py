"""`zsl-tagger tag` over many photos."""
