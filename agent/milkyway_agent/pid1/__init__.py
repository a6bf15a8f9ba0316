"""A server: its boot, its life, its way down, its own programs."""
