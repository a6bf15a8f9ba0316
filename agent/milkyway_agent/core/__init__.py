"""Decisions: pure functions and tables. Nothing here can reach the machine (an import contract checks that)."""
