"""Where desired states come from and statuses go to."""
