"""The supervisor by itself: ``--supervise DIR``."""
