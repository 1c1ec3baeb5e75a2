"""A run at work: its tasks, its stages, its progress."""
