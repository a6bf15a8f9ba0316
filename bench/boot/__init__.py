"""Boots side by side: our root with our PID 1, and the same root with systemd, on the same kernel in the same machine."""
