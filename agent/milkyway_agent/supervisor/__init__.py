"""Supervising services: their records, the engine, and the organs that it uses."""
