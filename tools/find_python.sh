#!/usr/bin/env bash
# Prints a Python that can run this project: 3.11 first (developed on it), then 3.10, 3.12, then plain python3.
# usage: tools/find_python.sh                  prints the path, or nothing
#        tools/find_python.sh --check PYTHON   says in one line what is missing, with exit status 2
set -u

# ensurepip: without it (Debian packs it apart) `python -m venv` cannot make an environment.
usable() {
  "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null
}

find_python() {
  local name path
  for name in python3.11 python3.10 python3.12 python3 python; do
    # Every match on the PATH: the first may be a shim of a version manager that answers for no installed version.
    while read -r path; do
      if usable "$path"; then
        echo "$path"
        return 0
      fi
    done < <(type -aP "$name")
  done
  return 1
}

check() {
  local python=$1
  if [ -z "$python" ]; then
    echo "error: no Python 3.10, 3.11 or 3.12 with the venv module found; on Debian or Ubuntu:" \
      "sudo apt install python3.11 python3.11-venv (or: make PYTHON=/path/to/python3.11 ...)" >&2
  elif ! "$python" -c '' 2>/dev/null; then
    echo "error: PYTHON=$python does not run" >&2
  elif ! usable "$python"; then
    echo "error: $python is $("$python" --version 2>&1); needed: Python 3.10, 3.11 or 3.12 with the venv module" \
      "(on Debian or Ubuntu: sudo apt install python3.11-venv)" >&2
  else
    return 0
  fi
  return 2
}

if [ "${1:-}" = --check ]; then
  check "${2:-}"
else
  find_python || true
fi
