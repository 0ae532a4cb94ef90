"""The model folder and the tagger. No torch here."""
