"""How stages become a run: Prefect flow, checkpoint store, MLflow, command line. Imports schemas and stages."""
