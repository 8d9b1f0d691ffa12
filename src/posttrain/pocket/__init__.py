"""The pocket world: a small closed world of real facts, the text of a base model, its exam.

Everything here is made by code from a seed and from the tables beside it, so every claim has a gold answer.
"""
