"""What a run would do, and what would stop it."""
