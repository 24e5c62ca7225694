"""Whatever bytes a sender chooses, `protocol/` raises nothing but what its docstrings name."""
