"""Thin adapters without decisions, one third-party client each."""
