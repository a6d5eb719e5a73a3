# One image for every role; the command says which one a container has.
#   docker build -t celeriac .
#   docker build -t celeriac:gpu --build-arg TORCH=gpu .
FROM python:3.12.12-slim-bookworm

ARG TORCH=cpu
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1
WORKDIR /app

# Libraries change seldom: a layer of their own. PyTorch's index has the CPU build; TORCH=gpu takes
# PyPI's, which brings CUDA and is about 3 GB larger. The driver comes from the machine.
COPY requirements.txt ./
RUN if [ "$TORCH" = cpu ]; then \
        pip install --no-deps --index-url https://download.pytorch.org/whl/cpu \
            "$(grep '^torch==' requirements.txt)"; \
    fi && pip install -r requirements.txt

COPY pyproject.toml README.md LICENSE celeryconfig.py flowerconfig.py ./
COPY celeriac celeriac
COPY producer producer
COPY tasks tasks
COPY workers workers
# Compiled once here: a process writes no bytecode, and would compile all of it whenever it starts.
RUN pip install --no-deps -e . \
    && python -m compileall -q celeriac producer tasks workers celeryconfig.py flowerconfig.py \
    && useradd --uid 10001 --create-home celeriac \
    && install -d -o celeriac -g celeriac /models /data /state /moderation
USER celeriac
ENV CELERIAC_MODELS_ROOT=/models CELERIAC_STACK_STATE_DIR=/state

HEALTHCHECK --interval=15s --timeout=5s --start-period=120s CMD ["python", "-m", "workers.healthcheck"]
CMD ["celeriac", "--help"]
