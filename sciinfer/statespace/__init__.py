"""Statespace."""
