"""Take a distribution's unit files and habits as they are."""
