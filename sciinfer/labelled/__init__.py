"""Labelled."""
