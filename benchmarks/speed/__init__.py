"""Subjects of the speed benchmark: the yardstick, and the loop of this project."""
