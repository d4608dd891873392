# The image of the service, with the bundles of models/bundles inside.
#
#   docker build -t vaeserve .          with the torch that the package index gives: CUDA on Linux
#   README.md, "Containers", says how to build the much smaller image for the CPU alone.

# Give a digest (python@sha256:…) or a mirror's name here to hold the base still.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm


FROM ${PYTHON_IMAGE} AS builder

# pip reads it by itself; unset unless given with --build-arg.
ARG PIP_INDEX_URL
# Where another build of torch comes from, and the digest of its file; without them it is the locked one.
ARG TORCH_INDEX_URL
ARG TORCH_SHA256

# pip compiles the bytecode, which a read-only root could not keep. With this it is valid by the hash of its source;
# by the time, which copying may round to another second, half of it was not, and every start compiled it anew.
ENV SOURCE_DATE_EPOCH=315532800

WORKDIR /build

# The dependencies alone: this layer, which holds torch, stays while the code changes. Every file is verified by its
# hash in a lock, but for a torch of another index without a digest. Of torch, the C++ headers and the tests go: a
# fifth of it, for nobody here.
COPY requirements.lock torch.lock ./
RUN python -m venv --without-pip /opt/venv \
    && install="pip --python /opt/venv/bin/python install --no-cache-dir" \
    && $install --no-deps --require-hashes --report packages.json -r requirements.lock \
    && if [ -z "$TORCH_INDEX_URL" ]; then \
        $install --no-deps --require-hashes --report torch.json -r torch.lock; \
    else \
        echo "$(grep -o '^torch==[^ ]*' torch.lock)${TORCH_SHA256:+ --hash=sha256:$TORCH_SHA256}" > torch.txt \
        && $install --index-url "$TORCH_INDEX_URL" --report torch.json -r torch.txt; \
    fi \
    && pip --python /opt/venv/bin/python check \
    && rm -rf /opt/venv/lib/*/site-packages/torch/include \
              /opt/venv/lib/*/site-packages/torch/test \
              /opt/venv/lib/*/site-packages/torch/bin/test_*

# .dockerignore lets in the service and its bundles, nothing else. What builds them, setuptools, is locked too.
COPY . .
RUN pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --no-build-isolation --target /srv/vaeserve . \
    && chmod -R a+rX models/bundles \
    && /opt/venv/bin/python deploy/sbom.py packages.json torch.json > /srv/vaeserve/sbom.cdx.json

# The codec's loops, compiled for this machine's processor; on another sort a start compiles them, as it would anyway.
WORKDIR /srv/vaeserve
RUN NUMBA_CACHE_DIR=/srv/vaeserve/compiled /opt/venv/bin/python -c "import codec.chunk, pathlib; \
        list(map(codec.chunk.verified, pathlib.Path('/build/models/bundles').glob('*/codec.safetensors')))"


FROM ${PYTHON_IMAGE}

RUN groupadd --gid 10001 vaeserve \
    && useradd --uid 10001 --gid vaeserve --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin vaeserve

# By size and by how seldom they change: a new version of the code or of a bundle is a layer of a few MB.
COPY --from=builder /opt/venv /opt/venv
COPY --from=builder /build/models/bundles /srv/vaeserve/models/bundles
COPY --from=builder /srv/vaeserve /srv/vaeserve

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    NUMBA_CACHE_DIR=/tmp/numba \
    VAE_HOST=0.0.0.0 \
    VAE_PORT=8000

WORKDIR /srv/vaeserve
# By number, so that an orchestrator can tell that it is not root.
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM

# Not urllib, which would send the question to a proxy named in the environment.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-I", "-c", "import http.client, os, sys; \
         service = http.client.HTTPConnection('localhost', int(os.environ['VAE_PORT']), timeout=4); \
         service.request('GET', '/health/ready'); \
         sys.exit(service.getresponse().status != 200)"]

CMD ["python", "-m", "app"]
