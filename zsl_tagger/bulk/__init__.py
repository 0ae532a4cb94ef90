"""Tag many photos: ``zsl-tagger tag``."""
