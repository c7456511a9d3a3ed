"""Desired state in: from the store and from orders of this node, to what is in force."""
