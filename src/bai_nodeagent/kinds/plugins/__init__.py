"""The accelerator plugins that the agent may load."""
