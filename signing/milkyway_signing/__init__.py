"""Hybrid keys and their signers: files now, tokens and key services later behind the same interface."""
