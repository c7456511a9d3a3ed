"""Mounts: the kernel's table, options as the kernel reports them, and what follows. Pure."""
