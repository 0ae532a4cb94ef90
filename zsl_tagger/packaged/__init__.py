"""How the packaged model is made: words, annotation, targets, features, training, export."""
