"""The operator's tool: it renders, shows, signs and sends changes and commands."""
