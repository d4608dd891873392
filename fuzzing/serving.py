"""The service itself with the shipped bundles, loaded in this process."""

from __future__ import annotations

from app.server import Server
from app.service import Service
from fuzzing.expected import SETTINGS, awaited

SERVER = Server(SETTINGS)
SERVICE: Service = SERVER.app.state.service
awaited(SERVICE.load())
assert SERVICE.not_ready is None, SERVICE.not_ready
