"""MLflow: points and tags are kept on disk first, then sent."""
