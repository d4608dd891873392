"""The HTTP service: `python -m app`."""
