"""The control server: what machines and operators may ask, and what it remembers."""
