"""The command ``milkyway`` of workstations and control servers; each house brings its verbs."""
