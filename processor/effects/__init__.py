"""What a handler writes through its connection is committed with its event, or not at all."""
