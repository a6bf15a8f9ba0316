"""Deeds: one kernel facility a module, kernel names, no decisions."""
