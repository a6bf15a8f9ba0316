"""Supervisors side by side: the same trivial services under each, interleaved, in one run."""
