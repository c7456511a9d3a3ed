"""Keeps a Backend.AI node in line with a desired state."""

__version__ = "0.1.0"
