"""Values that describe a run, as frozen pydantic models. Imports in milliseconds, and never torch or another layer."""
