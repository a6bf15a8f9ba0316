"""From the kernel to the first service: our root, against the same root with systemd as PID 1."""
