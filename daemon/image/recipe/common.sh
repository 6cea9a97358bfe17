# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# What every recipe starts with. The contract with the program that runs this stands in daemon/image/recipe.h.

set -eu
export LC_ALL=C
export PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
umask 022

say() {
        printf '%s\n' "$*" >&3
        printf '== %s\n' "$*" >&2
}

# give_up FIX MESSAGE
give_up() {
        say "fail $1|$2"
        exit 1
}

# need PROGRAM PACKAGE ...: every program that is missing, with one command that installs them all
need() {
        missing=
        programs=
        while [ $# -ge 2 ]; do
                if ! command -v "$1" >/dev/null 2>&1; then
                        missing="$missing $2"
                        programs="$programs $1"
                fi
                shift 2
        done
        [ -z "$missing" ] ||
                give_up "install what is missing: apt-get install$missing" "these programs are needed:$programs"
}

# sources SUITE: this host's own apt sources for that Debian release, as one-line entries; nothing when it has none
sources() {
        # shellcheck disable=SC2016 # the dollars are apt's
        local format='$(ORIGIN)|$(CODENAME)|$(REPO_URI) $(RELEASE) $(COMPONENT)'
        apt-get indextargets --format "$format" 'Identifier: Packages' |
                while IFS='|' read -r origin codename entry; do
                        case "$origin|$codename" in
                        "Debian|$1" | "Debian|$1-"*) printf 'deb %s\n' "$entry" ;;
                        esac
                done
}

# apt_with LIST ARGUMENT...: apt-get as it would decide in an empty system that has only these sources
apt_with() {
        list=$1
        shift
        apt-get -o "Dir::Etc::sourcelist=$list" -o Dir::Etc::sourceparts=/dev/null -o Dir::State::status=/dev/null \
                -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Install-Recommends=false \
                -o APT::Install-Suggests=false -o Debug::NoLocking=1 "$@"
}

# fetch PACKAGE...: download packages into the current directory
fetch() {
        # As root apt would drop to its own user, who can't write here.
        apt-get -q -o APT::Sandbox::User=root download "$@" >&2 ||
                give_up "refresh the package lists, and see that the network is there: apt-get update" "cannot download $*"
}

# copy_modules TREE/lib/modules/RELEASE INITRD-ROOT MODULE...: into lib/modules, named in the order of loading, with
# what they depend on
copy_modules() {
        local from=$1 to=$2 n=0 module
        shift 2
        for module in "$@"; do
                # modules.dep names what a module needs in reverse order of loading.
                grep -E "/${module//_/[_-]}\.ko:" "$from/modules.dep" | tr -d : | tr ' ' '\n' | tac
        done | awk '!seen[$0]++' >"$to.modules"
        mkdir -p "$to/lib/modules"
        while read -r module; do
                cp "$from/$module" "$to/lib/modules/$(printf '%02d' $n)-${module##*/}"
                n=$((n + 1))
        done <"$to.modules"
        rm "$to.modules"
}

# pack_initrd DIRECTORY: as a cpio archive, the form that the kernel unpacks fastest
pack_initrd() {
        (cd "$1" && find . | sort | cpio --quiet --create --format=newc --owner=0:0 --reproducible)
}
