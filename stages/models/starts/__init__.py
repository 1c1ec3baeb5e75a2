"""Initial values that a student takes from its teacher beside copied weights: maps fitted by least squares."""
