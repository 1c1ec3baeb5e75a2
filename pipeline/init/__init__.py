"""`distill init`: a short recipe from a person's data and teacher, which `distill plan` accepts at once."""
