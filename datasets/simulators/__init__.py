"""Seeded simulators: known dynamics, known noise, so that an answer can be checked against the truth."""
