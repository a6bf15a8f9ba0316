"""Decisions: pure functions and tables. Nothing here can reach the machine (a contract checks it)."""
