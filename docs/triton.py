"""Encode and compress samples through Triton's client: python docs/triton.py HOST:PORT."""

import sys

import numpy as np
import tritonclient.http as triton


def tensor(name: str, array: np.ndarray, datatype: str) -> triton.InferInput:
    """Return an array as an input."""
    return triton.InferInput(name, list(array.shape), datatype).set_data_from_numpy(array)


with triton.InferenceServerClient(sys.argv[1]) as client:
    sampled = client.infer("sample", [tensor("n", np.array([64]), "INT64")], parameters={"seed": 7})
    images = sampled.as_numpy("images")
    mu = client.infer("fashion-mnist.encode", [tensor("images", images, "UINT8")]).as_numpy("mu")
    print("mu", mu.shape, mu.dtype)
    payload = client.infer("compress", [tensor("images", images, "UINT8")]).as_numpy("payload")
    back = client.infer("decompress", [tensor("payload", payload, "BYTES")]).as_numpy("images")
    print(f"payload of {len(images)} images:", "exact" if np.array_equal(back, images) else "differs")
