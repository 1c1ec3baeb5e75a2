"""What a stage needs from outside, as protocols."""
