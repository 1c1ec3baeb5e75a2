#!/bin/sh
# install.sh FOLDER EXTRAS: this checkout in the virtual environment FOLDER, with the tested versions of all packages.
#
# uv takes a fraction of pip's time, and chooses torch's build for processors where there is no accelerator (1.9 instead
# of 6.5 GB). It reads none of pip's settings, so those that name where packages come from are handed over. Where uv
# cannot install, pip does.
set -eu
folder=$1 target=".[$2]"

pip_setting() { # NAME: the value of one of pip's settings, from its files or the environment
    "$folder/bin/pip" config list | sed -n "s/^[a-z:]*\.$1='\(.*\)'\$/\1/p" | tail -n 1
}

use_pip() {
    "$folder/bin/pip" install --quiet --disable-pip-version-check --constraint constraints.txt "$@"
}

use_uv() {
    "$folder/bin/uv" pip install --quiet --python "$folder/bin/python" --constraint constraints.txt --editable "$target" \
        "$@"
}

use_pip uv || { use_pip --editable "$target"; exit; }

index=$(pip_setting index-url) links=$(pip_setting find-links) certificate=$(pip_setting cert)
[ -z "$index" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$index}"
[ -z "$links" ] || export UV_FIND_LINKS="${UV_FIND_LINKS:-$(echo "$links" | tr ' ' ',')}"
[ -z "$certificate" ] || export SSL_CERT_FILE="${SSL_CERT_FILE:-$certificate}"

# Where packages come from a mirror or a folder, torch does too.
if [ -n "$index$links" ] || ! UV_HTTP_RETRIES=1 use_uv --torch-backend auto; then
    use_uv || use_pip --editable "$target"
fi
