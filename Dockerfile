# A full host: distills, compresses, exports, and measures on the processor it runs on.
#
#   docker build -t edgekd .
#   docker run --rm -v "$PWD:/work" edgekd pipeline digits --out report
FROM python:3.11-slim

WORKDIR /opt/edgekd
COPY pyproject.toml constraints.txt README.md CHANGELOG.md LICENSE ./
COPY edgekd edgekd
COPY pipelines pipelines
COPY devices devices

RUN python -m pip install --disable-pip-version-check --quiet -c constraints.txt torch==2.13.0
RUN python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[all]'

RUN useradd --create-home edgekd && mkdir /work && chown edgekd /work
USER edgekd
WORKDIR /work
ENTRYPOINT ["edgekd"]
