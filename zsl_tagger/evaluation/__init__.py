"""How good scores are.

To be read in this order: protocols, data, score_files, processes, scoring, figures, text, report, run.
"""
