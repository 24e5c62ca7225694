"""There is a day for what comes, and nothing is kept for longer than was said."""
