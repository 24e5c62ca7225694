"""The schemes that a sender has to itself, or that a standard describes: one file each."""
