"""Evaluate scores.

Reading order: protocols, results, data, score_files, processes, scoring, figures, text, report, run.
"""
