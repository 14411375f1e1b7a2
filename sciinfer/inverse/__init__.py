"""Inverse."""
