"""This process: its environment, terminal, log and signals, and Prefect's server beside it."""
