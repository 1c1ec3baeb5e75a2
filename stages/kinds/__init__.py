"""Kinds of tasks: one class each, from a row to the score of an answer.

Rows are checked before a model is loaded, and a mistake is reported within a second or two. So the modules here import
torch, transformers and scikit-learn only within the methods that have a model at hand.
"""
