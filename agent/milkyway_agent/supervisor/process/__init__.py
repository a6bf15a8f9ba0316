"""Everything about a process of a service: its output, its messages, its health, its commands, its end."""
