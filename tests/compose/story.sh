#!/bin/bash
# The demo as its README has it, from start to end, with an engine whose kernel has ESP. Images must be there.
# Lines that begin with == are for who reads the output.
set -u
cd "$(dirname "$0")/../.." || exit
compose() { docker compose --ansi never --progress plain -f docker/compose.yaml "$@"; }
section() { echo "== $*"; }

section up
compose up --no-build --detach --wait 2>&1
section "status $?"
compose ps --all --format '{{.Service}} {{.State}} {{.Health}}'

section capabilities
for container in $(compose ps -q); do
    docker inspect --format '{{index .Config.Labels "com.docker.compose.service"}} privileged={{.HostConfig.Privileged}} add={{.HostConfig.CapAdd}} drop={{.HostConfig.CapDrop}}' "$container"
done

section hard
compose exec -T mobile roam net-b 2>&1
section "status $?"
section soft
compose exec -T mobile roam --soft net-a 2>&1
section "status $?"
section view
compose exec -T mobile swanroam status 2>&1
section "status $?"
compose ps --all --format '{{.Service}} {{.State}} {{.Health}}'
section logs
compose logs --no-color --tail 60 2>&1

section down
compose stop 2>&1
compose ps --all --format '{{.Service}} {{.State}} exit {{.ExitCode}}'
compose down --volumes 2>&1
section "status $?"
section left
docker ps --all --quiet
docker network ls --format '{{.Name}}' | grep swanroam
docker volume ls --quiet | grep swanroam
section end
