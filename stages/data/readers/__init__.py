"""Rows from files, saved data sets, the hub and installed docstrings."""
