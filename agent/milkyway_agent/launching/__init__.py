"""From a service's definition to a process: starters, arguments, listeners, accounts, credentials, seccomp."""
