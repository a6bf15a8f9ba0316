"""What keeps this process itself going: trio, epoll, timers, signals, children, re-execution."""
