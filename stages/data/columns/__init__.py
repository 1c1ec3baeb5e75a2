"""Readers of task columns, one for each form: the task, its splits and their locations in, a `Parsed` out.

| reader                          | columns                                                           |
|---------------------------------|-------------------------------------------------------------------|
| `text_columns.task_texts`       | texts and pairs; lists joined, spans marked                       |
| `class_names.read_class_names`  | one class per row (`label_names` checks names that nobody listed) |
| `label_sets.read_label_sets`    | any number of labels per row, as names, numbers or flags          |
| `values.read_values`            | numbers                                                           |
| `tag_rows.read_tagged_words`    | words and their tags (`tag_schemes` converts them to BIO)         |
| `text_columns.read_answers`     | answers that are spans of a context                               |
| `choice_rows.read_choices`      | choices and the right one (`right_choice` interprets answers)     |
"""
