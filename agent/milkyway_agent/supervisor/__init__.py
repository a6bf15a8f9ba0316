"""Services: what is known of each, what happens to them, and who may ask for what."""
