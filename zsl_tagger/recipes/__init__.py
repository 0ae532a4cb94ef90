"""Trainings that can be repeated, one each."""
