# The service alone, without the embedded database. Its settings come from the environment.
FROM python:3.13-slim-trixie

# pyproject.toml says what the service needs, and requirements.txt in which versions.
COPY . /src
RUN pip install --no-cache-dir --constraint /src/requirements.txt /src

RUN useradd --create-home --uid 1000 todo
USER todo
WORKDIR /home/todo

ENV PORT=8000
EXPOSE 8000
HEALTHCHECK CMD python -c \
    "from urllib.request import urlopen; urlopen('http://127.0.0.1:$PORT/health', timeout=5)"

# The first command ends with one line if a setting or the database is wrong. Uvicorn alone, with
# WEB_CONCURRENCY set, would start failing workers for ever. The exec lets SIGTERM reach uvicorn.
CMD python -m backend.main \
    && exec uvicorn backend.main:app --host 0.0.0.0 --port "$PORT" \
        --timeout-keep-alive 75 --timeout-graceful-shutdown 10
