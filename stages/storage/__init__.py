"""Files and folders that are whole or absent, and columns of numbers mapped from disk."""
