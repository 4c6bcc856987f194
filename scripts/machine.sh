#!/usr/bin/env bash
# What the tests need of the machine beside python3, pip, make and git: PostgreSQL's server programs (no running server),
# and Chromium, without which the page of a drill is not looked at.
# Installs what is missing where it may (root, or sudo without a password, on Debian and its kin); else says what to do.
set -euo pipefail

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

install() { # install PACKAGE WHAT-FOR
  if command -v apt-get >/dev/null && as_root true 2>/dev/null; then
    [ -n "${updated:-}" ] || { as_root apt-get update -qq; updated=yes; }
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$1" >/dev/null
  else
    echo "the tests need $2: install the package $1 (Debian's name), then run this again" >&2
    exit 1
  fi
}

has_postgres() {
  command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null
}

if ! has_postgres; then
  install postgresql-common "PostgreSQL's server programs"
  # The tests start servers of their own; a server of the machine would be one that nobody asked for.
  as_root sed -i "s/^#\?create_main_cluster.*/create_main_cluster = false/" /etc/postgresql-common/createcluster.conf
  install postgresql "PostgreSQL's server programs"
fi

if ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null && ! command -v google-chrome >/dev/null; then
  (install chromium "Chromium, for the page of a drill" && install fonts-dejavu-core "a font for it") \
    || echo "without Chromium the page of a drill is not looked at; everything else is tested" >&2
fi
