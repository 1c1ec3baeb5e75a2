"""Engines that run members of a run (one task and seed each) in processes of their own, here or on a Ray cluster.

What goes to a member is JSON, and what comes back is JSON: everything else is in the store, under its digest. So a
member that is killed, or run twice, does no harm.
"""
