#!/bin/sh
# Make the secrets that are not there yet, in docker/secrets/ beside this file (or in the folder given).
# The folder is closed to other users of this machine; the files are open inside the containers, whose users differ.
set -eu
folder=${1:-$(dirname "$0")/secrets}
mkdir -p "$folder"
chmod 700 "$folder"
for name in postgres_password ray_token web_token; do
    [ -s "$folder/$name" ] && continue
    head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$folder/$name"
    chmod 444 "$folder/$name"
    echo "made $folder/$name"
done
