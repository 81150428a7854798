# Worker image for Dataflow with GPUs: Beam's own SDK image, TensorFlow with CUDA, and this package, all locked.
#
#   docker build --tag IMAGE . && docker push IMAGE
#   odin-beam score ... --runner=DataflowRunner --sdk_location=container --sdk_container_image=IMAGE
#
# Beam's entry point, /opt/apache/beam/boot, stays as it is.
ARG BASE=apache/beam_python3.11_sdk:2.77.0
FROM ${BASE}

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    TF_FORCE_GPU_ALLOW_GROWTH=true

WORKDIR /opt/odin-beam

# Dependencies in a layer of their own: a change of the code then builds and travels in seconds.
COPY requirements.lock ./
RUN python -m pip install --constraint requirements.lock \
        "apache-beam[gcp]" "tensorflow[and-cuda]" tensorflow-datasets google-crc32c pillow pyarrow tqdm

COPY setup.py pyproject.toml README.md LICENSE ./
COPY pipeline pipeline
COPY transforms transforms
RUN python -m pip install --constraint requirements.lock ".[gcp,gpu]" && odin-beam --help
