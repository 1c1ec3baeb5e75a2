"""The course of a run, and its views: a terminal, plain lines, Prefect's page."""
