"""The demo: commands that a user could type, one after the other."""
