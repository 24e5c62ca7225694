"""Each run ends in its time or is cut off, and whatever a handler does, it does to its own event alone."""
