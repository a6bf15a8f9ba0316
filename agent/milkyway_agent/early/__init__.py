"""Imported before everything else, and imports nothing of the house: the launcher's line, the first services, carried code."""
