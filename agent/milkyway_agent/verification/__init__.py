"""What the verifier knows and checks: its keys, its trust state, layers, enrolment, time. No process, no socket."""
