"""The process that checks every signature and keeps the trust state; it has no network."""
