"""How good scores are. To be read in this order: protocols, data, score_files, scoring, figures, text, report, run."""
