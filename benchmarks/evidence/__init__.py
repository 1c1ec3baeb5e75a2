"""What benchmarks measured, as JSON in docs/evidence/, and the tables that README.md and docs/results.md make of it."""
