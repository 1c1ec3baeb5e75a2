"""The store: checkpoints, states, reports and evaluations on disk, and their garbage collection."""
