"""Data sets: cards, simulators, loaders."""
