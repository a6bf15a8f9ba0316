"""What starts services: clients on their listeners, timers; and conditions."""
