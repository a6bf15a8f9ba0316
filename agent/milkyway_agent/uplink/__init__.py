"""The process that talks to the network and decides nothing."""
