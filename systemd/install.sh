#!/bin/sh
# What `make install` and `make uninstall` do beside the environment: units, users, folders, device names, examples.
#
#   install.sh install|uninstall
#
# Settings come as environment variables:
#   DESTDIR  root to install into; empty: this machine, whose service manager is told
#   PREFIX   where the environment is at run time (/opt/holdfast)
#   ROLE     node, cloud or all
# Every file that was installed stands in $PREFIX/install-manifest, relative to the root; uninstall removes those alone.
set -eu

PREFIX=${PREFIX:-/opt/holdfast}
ROLE=${ROLE:-node}
DESTDIR=${DESTDIR:-}
root=${DESTDIR%/}
here=$(cd "$(dirname "$0")" && pwd)
manifest=$root$PREFIX/install-manifest
units=/usr/lib/systemd/system

fail() { echo "install: $*" >&2; exit 2; }

case $PREFIX in /*[!A-Za-z0-9/._-]*|/|[!/]*|'') fail "PREFIX is '$PREFIX': an absolute path of letters, digits and . _ - is needed";; esac
case $root in ''|/*) ;; *) fail "DESTDIR is '$DESTDIR': an absolute path is needed";; esac

NODE="holdfast-edge.service holdfast-roadside.service holdfast-uplink.service holdfast-metrics.service holdfast-renew.service holdfast-renew.timer"
CLOUD="holdfast-collector.service holdfast-serve.service holdfast-ca.service holdfast-broker-renew.service
    holdfast-broker-renew.timer holdfast-collector-renew.service holdfast-collector-renew.timer"
case $ROLE in
node)  parts=node; unit_files="$NODE"; examples="node.toml.example credentials.conf.example";;
cloud) parts=cloud; unit_files="$CLOUD"; examples="collector.toml.example serve.toml.example";;
all)   parts="node cloud"; unit_files="$NODE $CLOUD"
       examples="node.toml.example credentials.conf.example collector.toml.example serve.toml.example";;
*)     fail "ROLE is '$ROLE': use node, cloud or all";;
esac

# put SOURCE TARGET: a file of mode 0644 in which the installed path stands.
put() {
    mkdir -p "$root$(dirname "$2")"
    sed "s|/opt/holdfast/bin/|$PREFIX/bin/|g" "$1" >"$root$2.new"
    chmod 644 "$root$2.new"
    mv -f "$root$2.new" "$root$2"
    echo "$2" >>"$list"
}

# Scripts of the environment name its interpreter by the path it has at run time.
render_environment() {
    [ -n "$root" ] && [ -d "$root$PREFIX/bin" ] || return 0
    for file in "$root$PREFIX"/bin/* "$root$PREFIX/pyvenv.cfg"; do
        if [ -f "$file" ] && [ ! -L "$file" ] && grep -qIF "$root$PREFIX" "$file"; then
            sed -i "s|$root$PREFIX|$PREFIX|g" "$file"
        fi
    done
}

# tell COMMAND...: only on this machine, and only where there is such a program. It changes nothing that is running.
tell() {
    [ -z "$root" ] && command -v "$1" >/dev/null || return 0
    "$@" || echo "install: '$*' failed: run it again as root" >&2
}

reload_manager() {
    [ ! -d /run/systemd/system ] || tell systemctl daemon-reload
    [ ! -d /run/udev ] || tell udevadm control --reload
}

install_all() {
    umask 022
    mkdir -p "$root$PREFIX"
    list=$(mktemp)
    trap 'rm -f "$list"' EXIT
    render_environment
    if [ -f "$root$PREFIX/pyvenv.cfg" ]; then
        (cd "$root$PREFIX" && find bin include lib lib64 share pyvenv.cfg ! -type d ! -name '*.pyc' 2>/dev/null || true) |
            sed "s|^|$PREFIX/|" >>"$list"
    fi
    for unit in holdfast.target $unit_files; do put "$here/$unit" "$units/$unit"; done
    for part in $parts; do
        put "$here/holdfast-$part.sysusers" "/usr/lib/sysusers.d/holdfast-$part.conf"
        put "$here/holdfast-$part.tmpfiles" "/usr/lib/tmpfiles.d/holdfast-$part.conf"
    done
    [ "$ROLE" = cloud ] || put "$here/70-holdfast.rules" /usr/lib/udev/rules.d/70-holdfast.rules
    for example in $examples; do
        [ -e "$root/etc/holdfast/$example" ] || put "$here/$example" "/etc/holdfast/$example"
    done
    mkdir -p "$root/usr/bin"
    if [ -L "$root/usr/bin/holdfast" ] || [ ! -e "$root/usr/bin/holdfast" ]; then
        ln -sfn "$PREFIX/bin/holdfast" "$root/usr/bin/holdfast"
        echo /usr/bin/holdfast >>"$list"
    else
        echo "install: /usr/bin/holdfast is another's file and stays: use $PREFIX/bin/holdfast" >&2
    fi
    # What an earlier installation put here and this one did not is still ours to remove.
    [ ! -e "$manifest" ] || cat "$manifest" >>"$list"
    LC_ALL=C sort -u "$list" | while IFS= read -r file; do
        if [ -e "$root$file" ] || [ -L "$root$file" ]; then echo "$file"; fi
    done >"$manifest.new"
    mv -f "$manifest.new" "$manifest"
    tell systemd-sysusers
    tell systemd-tmpfiles --create
    reload_manager
    echo "installed ($ROLE): $(wc -l <"$manifest") files below ${root:-/}, named in $root$PREFIX/install-manifest; nothing was started"
}

# Folders that are empty now and that only Holdfast would have made, deepest first.
remove_empty() {
    LC_ALL=C sort -ru | while IFS= read -r folder; do
        while :; do
            case $folder in
            "$PREFIX"|"$PREFIX"/*|/etc/holdfast) ;;
            # In a staging root every folder may be ours; on a machine those of the system are not.
            *) [ -n "$root" ] && [ "$folder" != / ] && [ "$folder" != . ] || break;;
            esac
            rm -rf "$root$folder/__pycache__"
            [ ! -d "$root$folder" ] || rmdir "$root$folder" 2>/dev/null || break
            folder=$(dirname "$folder")
        done
    done
}

uninstall_all() {
    [ -f "$manifest" ] || fail "$manifest is not there: nothing of Holdfast is installed at $root$PREFIX"
    if [ -z "$root" ] && [ -d /run/systemd/system ]; then
        for unit in $(sed -n "s|^$units/||p" "$manifest"); do systemctl disable --now --quiet "$unit" || true; done
    fi
    while IFS= read -r file; do rm -f "$root$file"; done <"$manifest"
    folders=$(while IFS= read -r file; do dirname "$file"; done <"$manifest" | sort -u)
    rm -f "$manifest"
    printf '%s\n' "$folders" | remove_empty
    [ ! -d "$root$PREFIX" ] || find "$root$PREFIX" -depth -type d -empty -delete
    echo "$PREFIX" | remove_empty
    reload_manager
    echo "removed what was installed; /etc/holdfast and what lies in /var/lib stay: they hold configuration, keys and data"
}

case ${1:-} in
install) install_all;;
uninstall) uninstall_all;;
*) fail "say install or uninstall";;
esac
