"""The admin's command on a machine."""
