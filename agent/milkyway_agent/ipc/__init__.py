"""What the agent's processes say to one another: messages, channels, sealed memory."""
