"""The routes, a router for each subject."""

from app.routes import health, images, inference, models, payloads, playground, sampling

ROUTERS = (
    images.router,
    payloads.router,
    sampling.router,
    models.router,
    health.router,
    inference.router,
    playground.router,
)

__all__ = ["ROUTERS"]
