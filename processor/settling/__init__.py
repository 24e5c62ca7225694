"""What became of an event is written by whoever holds it, once: sent twice or late, it changes nothing."""
