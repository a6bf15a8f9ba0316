"""What runs on a server: PID 1, verifier, uplink, the local API and mwctl."""
