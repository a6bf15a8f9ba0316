"""The one command of workstation and control server; the houses bring its verbs."""
