#!/bin/sh
# Writes the configuration of a haproxy into the directory $1, listening on port $2, in front of the ports after
# that: each is looked at ten times a second, and a request that finds one dead goes to another.
set -eu
dir=$1 port=$2
shift 2
mkdir -p "$dir"
{
  echo "defaults"
  echo "  mode http"
  echo "  timeout connect 200ms"
  echo "  timeout client 5s"
  echo "  timeout server 300ms"
  echo "  timeout check 200ms"
  echo "  retries 2"
  echo "  option redispatch 1"
  echo "  retry-on all-retryable-errors"
  echo "frontend front"
  echo "  bind 127.0.0.1:$port"
  echo "  default_backend replicas"
  echo "backend replicas"
  echo "  option httpchk GET /"
  for replica in "$@"; do
    echo "  server r$replica 127.0.0.1:$replica check inter 100ms fall 2 rise 2"
  done
} > "$dir/haproxy.cfg"
