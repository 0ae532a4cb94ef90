"""The model folder and the tagger, without torch."""
