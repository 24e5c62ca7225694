"""What is due is claimed soon, the oldest first, and no more of it than can start soon."""
