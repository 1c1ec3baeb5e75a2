"""Teacher and student: encoders, heads, projections, and what is captured of their insides."""
