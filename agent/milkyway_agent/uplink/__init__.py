"""The process that speaks to the network, and decides nothing."""
