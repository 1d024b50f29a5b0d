#!/bin/bash
# Builds the demo's images in the root of tests/compose/run, with the engine there; they stay in its /var/lib/docker.
set -euo pipefail
dockerd --bridge=none --iptables=false --ip6tables=false &
engine=$!
trap 'kill $engine; wait $engine || true' EXIT
for _ in $(seq 60); do
    docker info >/dev/null 2>&1 && break
    kill -0 $engine
    sleep 1
done
docker image inspect debian:trixie-slim >/dev/null 2>&1 || docker import /run/made/base.tar debian:trixie-slim
# Without a bridge there is only the machine's own network.
printf 'services:\n  kernel-check: {build: {network: host}}\n  router: {build: {network: host}}\n' >/tmp/network.yaml
docker compose -f /project/docker/compose.yaml -f /tmp/network.yaml build --progress plain
# What a kernel without ESP is told: by this one, if it has none.
docker run --rm --network none --cap-drop ALL --cap-add NET_ADMIN swanroam-demo-host kernel-check >/run/made/refusal.txt 2>&1 ||
    echo "exit $?" >>/run/made/refusal.txt
docker builder prune --all --force >/dev/null
docker image prune --force >/dev/null
