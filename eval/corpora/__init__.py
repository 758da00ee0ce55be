"""Texts, stories, people and questions that benchmarks are made of.

None of the files needs torch or a model.
"""
