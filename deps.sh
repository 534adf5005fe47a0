#!/bin/sh
# deps.sh -- makes sure that a compiler, make and stb's headers are there. Where one is missing it
# asks apt for the packages, with sudo if need be, and says so; where it cannot, it prints the command.
# Usage: deps.sh CC STB-FOLDER
cc=$1 stb=$2 packages=
printf '#include <math.h>\n' | "$cc" -E - >/dev/null 2>&1 || packages="$packages build-essential"
[ -f "$stb/stb_image.h" ] || packages="$packages libstb-dev"
[ -z "$packages" ] && exit 0

install="apt-get install -y --no-install-recommends$packages"
if ! command -v apt-get >/dev/null 2>&1; then
    echo "deps: missing:$packages (Debian's names). Please install them; on Debian or Ubuntu:" >&2
    echo "    sudo $install" >&2
    exit 1
fi
sudo=""
if [ "$(id -u)" != 0 ]; then
    sudo="sudo "
    if ! command -v sudo >/dev/null 2>&1; then
        echo "deps: missing:$packages, and this is not root. Please run, as root:" >&2
        echo "    apt-get update && $install" >&2
        exit 1
    fi
fi
echo "deps: missing:$packages. Running: $sudo$install" >&2
$sudo apt-get update -qq && $sudo $install
