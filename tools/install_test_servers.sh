#!/bin/sh
# Installs the servers that the tests of remote archives start, but for moto, which pip installs:
# nginx from the system's packages, azurite and s3rver from npm; and Chromium with ChromeDriver, for
# the tests of the viewer. What is there is left alone.
# Usage: tools/install_test_servers.sh [FOLDER]; FOLDER is for npm's packages, by default "servers" in
# the environment of python3.
set -eu
azurite=azurite@3.35.0
s3rver=s3rver@3.7.1
folder=${1:-$(python3 -c 'import sys; print(sys.prefix)')/servers}
PATH=$PATH:/usr/sbin

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

if ! command -v nginx > /dev/null; then
    if command -v apt-get > /dev/null && as_root true 2> /dev/null; then
        as_root apt-get update -qq
        DEBIAN_FRONTEND=noninteractive as_root apt-get install -qq --yes --no-install-recommends nginx-light > /dev/null
    elif command -v brew > /dev/null; then
        brew install --quiet nginx
    else
        echo "The tests need nginx: install the package nginx (Debian: nginx-light)." >&2
        exit 1
    fi
fi

if ! command -v chromedriver > /dev/null; then
    if command -v apt-get > /dev/null && as_root true 2> /dev/null; then
        as_root apt-get update -qq
        DEBIAN_FRONTEND=noninteractive as_root apt-get install -qq --yes --no-install-recommends chromium chromium-driver > /dev/null
    elif command -v brew > /dev/null; then
        brew install --quiet --cask google-chrome chromedriver
    else
        echo "The tests need Chromium: install chromium and chromedriver (Debian: chromium-driver)." >&2
        exit 1
    fi
fi

if ! command -v npm > /dev/null; then
    echo "The tests need Node.js and npm: install them (Debian: nodejs and npm)." >&2
    exit 1
fi
# npm would ask the network even if nothing is missing.
if [ "$(cat "$folder/installed" 2> /dev/null)" != "$azurite $s3rver" ]; then
    mkdir -p "$folder"
    # Their installation scripts are not needed.
    npm install --prefix "$folder" --silent --no-audit --no-fund --no-save --ignore-scripts "$azurite" "$s3rver"
    echo "$azurite $s3rver" > "$folder/installed"
fi
