"""Checkpoints of the released ML-Decoder code: their names and their import."""
