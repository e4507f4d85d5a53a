# SessionRec-JAX for a Cloud TPU VM. This file has not been built. The extra `tpu` installs libtpu.
#
#   docker build -f docker/tpu.Dockerfile -t sessionrec:tpu .
#   docker run --rm --privileged --network host -v "$PWD:/data" -w /data sessionrec:tpu train DATA --out RUN --hosts auto
#
# --privileged gives the container the chips, and --network host lets the processes of several VMs meet.
FROM python:3.12-slim-bookworm

ENV PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1

WORKDIR /opt/sessionrec
COPY pyproject.toml README.md LICENSE ./
COPY doors doors
COPY sessionrec_jax sessionrec_jax
COPY scaling scaling
COPY experiments experiments
RUN pip install ".[tpu,serve]"

ENTRYPOINT ["sessionrec"]
