"""The supervisors that are compared, one module each."""
