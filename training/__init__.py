"""Offline: fetch data, train, evaluate and export bundles: `python -m training`."""
