"""Runs made of stages: Prefect flow, checkpoint store, MLflow, command line. Imports schemas and stages."""
