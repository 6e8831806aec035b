#!/bin/sh
# Runs a program of the newest PostgreSQL that is installed: Debian keeps `initdb` and `postgres` out of PATH.
# PGBIN names another place.
set -eu
found=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)
PGBIN=${PGBIN:-$found}
[ -z "$PGBIN" ] || PATH=$PGBIN:$PATH
exec "$@"
