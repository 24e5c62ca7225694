"""Whatever bytes a sender chooses, the parsers raise nothing but what their docstrings name."""
