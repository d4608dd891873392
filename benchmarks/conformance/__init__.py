"""Every promise of the OpenAPI document, held against the running service by Schemathesis.

document ─► Schemathesis: cases, valid and not ─► completion ─► service ─► checks ─► results.json

A JSON Schema cannot say that a string is an image, that a row is as long as the model's latents, or that
one parameter excludes another. `completion` has valid cases keep to that, and damages some: else every
valid case would be refused, and what lies behind the parsing would never be reached.
"""
