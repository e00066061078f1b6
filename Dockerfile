# swarmlet's own image. `scripts/build-image` makes what is copied here, and says how to use another base:
# any image with Python 3.11 or newer and glibc. Nothing is fetched while it is built.
ARG BASE=python:3.12-slim

FROM ${BASE} AS build
COPY build/image/wheels /wheels
RUN python3 -m venv --without-pip /opt/swarmlet \
 && PYTHONPATH=$(echo /wheels/pip/*.whl) /opt/swarmlet/bin/python -m pip install -q --no-index --no-deps /wheels/*.whl
COPY build/image/swarmlet /wheels/swarmlet
RUN PYTHONPATH=$(echo /wheels/pip/*.whl) /opt/swarmlet/bin/python -m pip install -q --no-index --no-deps /wheels/swarmlet/*.whl

FROM ${BASE}
COPY --from=build /opt/swarmlet /opt/swarmlet
COPY scripts/image/swarm-node /usr/local/bin/swarm-node
ENV PATH=/opt/swarmlet/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
VOLUME /var/lib/swarmlet
EXPOSE 2377/tcp
STOPSIGNAL SIGTERM
ENTRYPOINT ["swarmlet"]
CMD ["daemon"]
