"""The operator's tool: what is rendered, shown, signed and sent."""
