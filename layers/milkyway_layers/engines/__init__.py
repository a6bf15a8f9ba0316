"""Engines: a distribution's own package manager, a module for each family."""
