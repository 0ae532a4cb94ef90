"""What tagging needs and nothing else: no torch on this path."""
