"""The local API on the side of the agent: who may ask, what is answered, what is shown."""
