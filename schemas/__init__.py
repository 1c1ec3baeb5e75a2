"""What a run is: frozen pydantic models. Imports in milliseconds; never imports torch, stages or pipeline."""
