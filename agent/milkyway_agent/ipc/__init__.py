"""How the agent's processes talk to one another: messages, channels, sealed memory."""
