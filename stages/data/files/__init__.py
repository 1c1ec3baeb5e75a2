"""Files as bytes: compression, encodings, limits on size."""
