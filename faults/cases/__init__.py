"""What is broken, a chapter for each kind; and beside them what several chapters share."""
