"""Imported before everything else, and importing nothing of ours: the launcher's client, the first services, carried code."""
