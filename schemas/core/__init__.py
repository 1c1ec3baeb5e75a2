"""What every schema builds on: the frozen base, errors and their wording, references, layer maps, terms, units."""
