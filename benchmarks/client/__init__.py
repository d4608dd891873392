"""What the Python client costs on top of bare httpx.

one service ◄── bare httpx, vaeserve_client, in turns, call by call ──► results.json
"""
