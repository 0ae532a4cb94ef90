"""Records, one per image, and the files that store them."""
