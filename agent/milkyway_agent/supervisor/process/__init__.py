"""What concerns one process of a service: its output, what it says, its health, its commands, its end."""
