"""The VAE codec: lossless payloads, the same bytes and the same pixels on every machine.

    images ─► payload ─► chunks ─┬─► chunk: encoder ─► k ─► latents, decoder ─► context ─► rans ─┬─► bytes
                                 └─► classical: lossless WebP, where no model fits or it is less ─┘

`integer` and `networks` run the VAE in integers; `mixture` gives a level's table; FORMAT.md is the contract.
"""
