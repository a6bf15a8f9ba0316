"""What keeps this very process going: trio, epoll, timers, signals, children, re-execution."""
