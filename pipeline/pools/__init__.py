"""Stages on Prefect's work pools: a worker of a pool trains what a run asks for, and the store answers for it.

The run asks for a stage by starting a flow run of the deployment `distill-stage/POOL` (`registered`), whose parameters
are JSON, and waits for its end (`child`). What the worker runs is `pipeline.stage_flow`. Nothing but a digest comes
back: the run then finds the stage in the store, as it finds one that it made itself.
"""
