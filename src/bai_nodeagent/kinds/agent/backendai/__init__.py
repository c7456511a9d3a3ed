"""What is known of Backend.AI's agent, version by version; nobody else knows it."""
