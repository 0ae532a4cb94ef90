"""How good scores are.

To be read in this order: protocols, results, data, score_files, processes, scoring, figures, text, report, run.
"""
