"""The agent as a process: found, started, stopped, judged."""
