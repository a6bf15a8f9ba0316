"""What starts a service: clients on its listeners, timers, conditions."""
