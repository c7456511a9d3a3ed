"""The environment of Python that the agent runs in."""
