"""Words: spelling, the word table, label lists and where word vectors come from."""
