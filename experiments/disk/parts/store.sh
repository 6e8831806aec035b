#!/bin/sh
# Writes the configuration of a small nginx into the directory $1, listening on port $2: it keeps what is put under
# /store/, and shows it to whoever asks, in the directory $3.
set -eu
mkdir -p "$3/store"
echo "ok" > "$3/store/old"
# Started by root, its workers would be somebody else, who may not look into these directories.
if [ "$(id -u)" = 0 ]; then user="user root;"; else user=""; fi
cat > "$1/nginx.conf" <<CONF
daemon off;
$user
pid $1/nginx.pid;
error_log $1/error.log;
events {}
http {
  access_log off;
  client_body_temp_path $3/store/.body; proxy_temp_path $1/proxy; fastcgi_temp_path $1/fastcgi;
  uwsgi_temp_path $1/uwsgi; scgi_temp_path $1/scgi;
  server {
    listen 127.0.0.1:$2;
    location / { return 200 "ready"; }
    location /store/ { root $3; dav_methods PUT; }
  }
}
CONF
