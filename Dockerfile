# One image for Dataflow's workers with GPUs and for the launcher of the Flex Template: Beam's own SDK image, TensorFlow
# with CUDA, and this package, all locked.
#
#   docker build --tag IMAGE . && docker push IMAGE
#
# docs/dataflow.md tells what it is for. `make test-image` builds it where no registry can be reached.
ARG BASE=apache/beam_python3.11_sdk:2.77.0
ARG LAUNCHER=gcr.io/dataflow-templates-base/python311-template-launcher-base:20230622_RC00

FROM ${LAUNCHER} AS launcher

# Its entry point, /opt/apache/beam/boot, stays as it is: workers start by it. A Flex Template names its own.
FROM ${BASE}

# Of setup.py. `gcp` alone leaves CUDA out, which is several GB.
ARG EXTRAS=gcp,gpu

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_NO_INPUT=1 \
    PIP_ROOT_USER_ACTION=ignore \
    TF_FORCE_GPU_ALLOW_GROWTH=true

WORKDIR /opt/odin-beam

# Dependencies first, in a layer of their own: a change of the code then builds and travels in seconds. For their list
# setup.py needs its packages, empty ones will do.
COPY requirements.lock setup.py pyproject.toml ./
COPY odin_beam odin_beam
COPY transforms/__init__.py transforms/
RUN mkdir pipeline && touch pipeline/__init__.py \
    && python -m pip install --constraint requirements.lock ".[${EXTRAS}]" \
    && rm -r build pipeline

COPY LICENSE ./
COPY pipeline pipeline
COPY transforms transforms
RUN python -m pip install --no-build-isolation --no-deps --force-reinstall . \
    && rm -r build odin_beam pipeline transforms \
    && odin-beam --help

COPY --from=launcher /opt/google/dataflow/python_template_launcher /opt/google/dataflow/
COPY flex_template/launch_job.py ./
ENV FLEX_TEMPLATE_PYTHON_PY_FILE=/opt/odin-beam/launch_job.py
