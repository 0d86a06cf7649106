"""How each step is done; a task is plain Python that a test can call."""
