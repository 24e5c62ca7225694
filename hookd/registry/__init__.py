"""What is registered is changed whole or not at all: a source with its secrets, and of a file every source in it."""
