"""Columns of a task's rows, one reader per form: texts, lists, label sets, tags, choices, values."""
