"""The shipped recipes, one YAML file each, as package data; `schemas.loading.load` reads them."""
