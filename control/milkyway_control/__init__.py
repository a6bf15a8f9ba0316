"""The control server, the operator's tool and what they share."""
