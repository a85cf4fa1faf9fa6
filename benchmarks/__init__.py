"""Measurements: one script a question. Each writes JSON and prints a table; none is a test."""
