"""Exactly one function takes an event, the most specific, and it is given what its parameters ask for."""
