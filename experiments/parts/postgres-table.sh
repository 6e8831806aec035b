#!/bin/sh
# Makes a PostgreSQL database cluster in the directory $1, with one table of about 14 MB, `big`, whose files lie apart from all
# others in $2.
set -eu
here=$(dirname "$0")
sh "$here/postgres.sh" initdb -D "$1" -A trust -E UTF8 --no-sync
mkdir "$2"
# Without a server, a line is a statement.
sh "$here/postgres.sh" postgres --single -D "$1" postgres >/dev/null <<SQL
create tablespace apart location '$2'
create table big tablespace apart as select n, repeat('x', 100) as text from generate_series(1, 100000) n
SQL
