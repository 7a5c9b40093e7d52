"""Suites: features × methods × benchmarks × seeds as one table that can be gone on with."""
