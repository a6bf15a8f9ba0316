"""Hybrid keys and those who sign with them: files now; tokens and key services behind the same interface."""
