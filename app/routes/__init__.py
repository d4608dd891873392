"""The routes, a router for each subject."""

from app.routes import health, images, inference, models, payloads, sampling

ROUTERS = (images.router, payloads.router, sampling.router, models.router, health.router, inference.router)

__all__ = ["ROUTERS"]
