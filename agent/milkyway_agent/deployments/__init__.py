"""From the desired state to what runs: effects, layers, stacks, policy, data, services."""
