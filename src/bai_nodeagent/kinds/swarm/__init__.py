"""Swarm membership: its rules, its certificate, and what is remembered of it."""
