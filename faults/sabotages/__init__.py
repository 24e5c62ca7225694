"""hookd, each of its parts broken on purpose."""
