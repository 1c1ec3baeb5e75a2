"""Teacher and student models: encoders, heads, projections, and the capture of their internal states."""
