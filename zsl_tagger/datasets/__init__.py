"""The prepared data set folder: its format, how it is read and checked."""
