"""Processes that do one piece of work and end: opening the disk, compiling policy."""
