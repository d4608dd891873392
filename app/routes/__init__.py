"""The routes, a router for each subject."""

from app.routes import health, images, models, sampling

ROUTERS = (images.router, sampling.router, models.router, health.router)

__all__ = ["ROUTERS"]
