"""Prepared data set folders: format, reading and checking."""
