"""The demo: commands that a user could type, in sequence."""
