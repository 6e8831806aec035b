#!/bin/sh
# Writes the configuration of a small nginx into the directory $1, listening on port $2; while there is a file $3
# (`maintenance` in that directory if not given), everybody is turned away. What is put under /store/ is kept in the directory
# $4 ($1 if not given), and shown to whoever asks.
set -eu
store=${4:-$1}
mkdir -p "$store/store"
echo "ok" > "$store/store/old"
mkdir -p "$1/html"
echo "ok" > "$1/html/index.html"
# A page that is packed anew for everybody who asks costs processor time.
mkdir -p "$1/html/packed"
seq 200000 > "$1/html/packed/numbers.txt"
# Started by root, its workers would be somebody else, who may not look into this directory.
if [ "$(id -u)" = 0 ]; then user="user root;"; else user=""; fi
cat > "$1/nginx.conf" <<CONF
daemon off;
$user
pid $1/nginx.pid;
error_log $1/error.log;
events {}
http {
  access_log off;
  client_body_temp_path $store/store/.body; proxy_temp_path $1/proxy; fastcgi_temp_path $1/fastcgi;
  uwsgi_temp_path $1/uwsgi; scgi_temp_path $1/scgi;
  server {
    listen 127.0.0.1:$2;
    location / {
      root $1/html;
      if (-f ${3:-$1/maintenance}) { return 503; }
    }
    location /store/ { root $store; dav_methods PUT; }
    location /packed { root $1/html; gzip on; gzip_types text/plain; gzip_comp_level 9; }
  }
}
CONF
