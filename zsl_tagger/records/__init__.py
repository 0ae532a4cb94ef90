"""One record an image: the record itself and the files that hold records."""
