#!/bin/sh
# The path of a newcomer, for real: from an empty Debian to a node that reports to a collector on the same machine, under
# a systemd that is process 1 of namespaces of its own. Prints each command and what it said.
#
#   sudo tests/newcomer.sh [FOLDER]
#
# FOLDER (default: a new one below /tmp) gets the root file system, 1.5 GB; one that is there from an earlier run is used
# again as far as it goes. Needs root, debootstrap and the package registries, and ports 8443 and 8883 of loopback. Not
# part of `make test`. About two minutes. Settings: SUITE (bookworm), MIRROR (debootstrap's own).
set -eu
SUITE=${SUITE:-bookworm}
MIRROR=${MIRROR:-}
source=$(cd "$(dirname "$0")/.." && pwd)
home=${1:-$(mktemp -d /tmp/holdfast-newcomer.XXXXXX)}
root=$home/root
manager=
group=/sys/fs/cgroup/holdfast-newcomer
[ ! -d /sys/fs/cgroup/unified ] || group=/sys/fs/cgroup/unified/holdfast-newcomer

[ "$(id -u)" = 0 ] || { echo "newcomer: only root may make the namespaces"; exit 2; }
command -v debootstrap >/dev/null || { echo "newcomer: apt install debootstrap"; exit 2; }

finish() {
    code=$?
    [ "$code" = 0 ] || [ -z "$manager" ] || inside "systemctl --no-pager --failed; journalctl --no-pager -n 40" || true
    [ -z "$manager" ] || kill -9 "$manager" 2>/dev/null || true
    wait 2>/dev/null || true
    find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
    echo "newcomer: exit code $code; the root file system is $root (remove it with: rm -rf $home)"
}
trap finish EXIT
trap 'exit 1' INT TERM

# --- an empty Debian, with this machine's way to the registries -----------------------------------------------------

mkdir -p "$root"
if [ ! -e "$root/etc/debian_version" ]; then
    debootstrap --variant=minbase --include=systemd,ca-certificates "$SUITE" "$root" ${MIRROR:+"$MIRROR"} >"$home/debootstrap.log" 2>&1 \
        || { tail -5 "$home/debootstrap.log"; exit 1; }
fi
for file in etc/resolv.conf etc/hosts etc/pip.conf etc/ssl/certs/ca-certificates.crt; do
    [ ! -e "/$file" ] || cp -L "/$file" "$root/$file"
done
rm -rf "$root/etc/apt/sources.list" "$root/etc/apt/sources.list.d"
cp -r /etc/apt/sources.list* "$root/etc/apt/"
cp -r /etc/apt/apt.conf.d/. "$root/etc/apt/apt.conf.d/"
cp -rn /usr/share/keyrings/. "$root/usr/share/keyrings/"
wheels=${PIP_FIND_LINKS:-}
[ ! -d "$wheels" ] || { mkdir -p "$root$wheels" && cp -r "$wheels/." "$root$wheels/"; }
mkdir -p "$root/usr/src/holdfast"
(cd "$source" && git ls-files -z --cached --others --exclude-standard | tar --null --ignore-failed-read -cf - -T - 2>/dev/null) |
    tar -xf - -C "$root/usr/src/holdfast"

# --- its systemd ----------------------------------------------------------------------------------------------------

mkdir -p "$group"
cat >"$home/boot" <<EOF
set -eu
mount --make-rprivate / && mount --bind "$root" "$root" && cd "$root"
mount -t proc proc proc && mount -t sysfs -o ro sysfs sys && mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev && mkdir dev/pts dev/shm && ln -s /proc/self/fd dev/fd
for node in null zero full random urandom tty; do : >dev/\$node && mount --bind /dev/\$node dev/\$node; done
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts && ln -s pts/ptmx dev/ptmx
: >dev/console && mount --bind /dev/null dev/console && mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t tmpfs -o mode=755 tmpfs run && mount --make-shared run && mount -t tmpfs -o mode=1777 tmpfs tmp
# No generators and nothing of the boot of a whole machine: they would set up the host's kernel.
rm -rf usr/lib/systemd/system-generators/* usr/lib/systemd/system/sysinit.target.wants usr/lib/systemd/system/multi-user.target.wants
mkdir -p etc/systemd/journald.conf.d && printf '[Journal]\nReadKMsg=no\nAudit=no\nStorage=volatile\n' >etc/systemd/journald.conf.d/here.conf
mkdir -p mnt && pivot_root . mnt && cd / && umount -l mnt
exec env -i container=newcomer PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --unit=multi-user.target </dev/null
EOF
sh -c "echo \$\$ >$group/cgroup.procs; exec unshare --kill-child -m -p -f -u -i -C sh $home/boot" >"$home/boot.log" 2>&1 &
outer=$!
for _ in $(seq 100); do
    for child in $(cat /proc/$outer/task/$outer/children 2>/dev/null); do
        [ "$(cat "/proc/$child/comm")" != systemd ] || manager=$child
    done
    [ -z "$manager" ] || break
    sleep 0.1
done
[ -n "$manager" ] || { cat "$home/boot.log"; exit 1; }

inside() {
    env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 COLUMNS=110 DEBIAN_FRONTEND=noninteractive \
        ${PIP_CERT:+PIP_CERT=$PIP_CERT} ${PIP_INDEX_URL:+PIP_INDEX_URL=$PIP_INDEX_URL} ${wheels:+PIP_FIND_LINKS=$wheels} \
        nsenter -t "$manager" -m -p -u -i -C sh -c "cd /usr/src/holdfast; $1"
}
# run COMMAND: as a person would type it.
run() {
    echo "# $1"
    inside "$1"
}
quietly() {
    echo "# $1"
    inside "$1" >"$home/quiet.log" 2>&1 || { tail -20 "$home/quiet.log"; exit 1; }
}

# --- the path -------------------------------------------------------------------------------------------------------

quietly "apt-get update && apt-get install -y --no-install-recommends make git python3-venv mosquitto"
run "make install ROLE=all"
run "runuser -u holdfast-collector -- holdfast ca init /var/lib/holdfast-ca --tenant tenant-a --host localhost --broker-host localhost"
run "runuser -u holdfast-collector -- holdfast ca collector /var/lib/holdfast-ca --out /var/lib/holdfast-collector"
run "holdfast provision broker --ca /var/lib/holdfast-ca --out /etc/mosquitto/holdfast"
run "ln -s /etc/mosquitto/holdfast/mosquitto.conf /etc/mosquitto/conf.d/holdfast.conf"
run "systemctl restart mosquitto && systemctl is-active mosquitto"
run "systemctl enable --now holdfast.target holdfast-collector holdfast-ca holdfast-broker-renew.timer holdfast-collector-renew.timer"
run "systemctl is-active holdfast-collector holdfast-ca"
run "runuser -u holdfast-collector -- holdfast ca code /var/lib/holdfast-ca --device car-1" | tee "$home/code"
label=$(sed -n 's/^label *//p' "$home/code")
rm "$home/code"
run "holdfast provision --server https://localhost:8443 --ca /var/lib/holdfast-ca/root.crt --qr '$label' --yes"
run "holdfast provision show"
run "systemctl enable --now holdfast-edge holdfast-uplink holdfast-renew.timer"
run "systemctl is-active holdfast-edge holdfast-uplink holdfast-renew.timer"
for _ in $(seq 90); do # until the first receipt
    receipts=$(inside "holdfast status --config /etc/holdfast/node.toml --json" | sed -n 's/.*"receipts": *\([0-9]*\).*/\1/p')
    [ "${receipts:-0}" = 0 ] || break
    sleep 1
done
run "holdfast status --config /etc/holdfast/node.toml"
run "holdfast doctor --config /etc/holdfast/node.toml || true" # it has no port yet, and says so
run "systemctl reload holdfast-edge && systemctl is-active holdfast-edge"
run "holdfast metrics node --config /etc/holdfast/node.toml --once | grep -v '^#' | head -12"
run "runuser -u holdfast-collector -- holdfast log --config /var/lib/holdfast-collector/collector.toml"
[ "${receipts:-0}" != 0 ] || { echo "newcomer: no receipt came"; exit 1; }
run "install -m 600 -o holdfast-collector /etc/holdfast/serve.toml.example /var/lib/holdfast-collector/serve.toml"
run "systemctl enable --now holdfast-serve && systemctl is-active holdfast-serve"
run "journalctl -u holdfast-serve -o cat --no-pager | tail -8"
run "systemctl start holdfast-renew && journalctl -u holdfast-renew -o cat --no-pager"
run "systemctl start holdfast-broker-renew holdfast-collector-renew && journalctl -u holdfast-broker-renew -u holdfast-collector-renew -o cat --no-pager"
run "systemctl list-timers 'holdfast-*.timer' --no-pager"
run "systemctl stop holdfast.target"
run "make uninstall"
run "ls /etc/holdfast /var/lib/holdfast"
