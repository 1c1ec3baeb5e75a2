"""Device, precision and memory."""
