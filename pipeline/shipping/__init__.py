"""The closing table of a run, what you ship: the student's forms beside its teacher."""
