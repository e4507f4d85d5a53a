# SessionRec-JAX for NVIDIA GPUs. This file has not been built. The wheels of jax[cuda13] bring CUDA; the host needs a
# driver for CUDA 13 and the NVIDIA Container Toolkit.
#
#   docker build -f docker/cuda.Dockerfile -t sessionrec:cuda .
#   docker run --rm --gpus all -v "$PWD:/data" -w /data sessionrec:cuda train DATA --out RUN
FROM python:3.12-slim-bookworm

ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1

WORKDIR /opt/sessionrec
COPY pyproject.toml README.md LICENSE ./
COPY doors doors
COPY sessionrec_jax sessionrec_jax
COPY scaling scaling
COPY experiments experiments
RUN pip install ".[cuda,serve]"

RUN useradd --create-home sessionrec
USER sessionrec
ENTRYPOINT ["sessionrec"]
