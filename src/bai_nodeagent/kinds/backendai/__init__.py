"""Backend.AI's Redis, as this node reaches it."""
