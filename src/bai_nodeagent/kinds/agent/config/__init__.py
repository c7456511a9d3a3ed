"""The agent's agent.toml."""
