"""A webhook answered with 2xx is a committed row, byte for byte what was sent."""
