"""Finished runs of a store, as commands list and compare them."""
