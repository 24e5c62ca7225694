"""Whatever is broken, every 2xx is in the table exactly once, byte for byte, and every row ends processed or failed."""
