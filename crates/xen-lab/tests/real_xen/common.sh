# What all stories use. A story ends with `ok NAME` or with `failed NAME WHY`; `over` is the exit status.
failures=0
ok() { echo "ok $1: $(($(date +%s) - begun)) s"; begun=$(date +%s); }
failed() { echo "failed $1: ${*:2}"; failures=$((failures + 1)); evidence "$1"; begun=$(date +%s); }
# What a failure can be understood by, as it is now: NAME
evidence() {
    local to="/out/failed-${1//[^a-z_0-9]/_}" pid
    mkdir -p "$to"
    xenstore-ls -f >"$to/xenstore" 2>&1
    { xl list -v; xl vcpu-list; ps -o pid,ppid,stat,args; } >"$to/processes" 2>&1
    { timeout -k 1 20 oxtap ls; timeout -k 1 20 oxtap doctor; } >"$to/oxtap" 2>&1
    # Where those stand who may be waited for.
    for pid in $(pidof xl libxl-save-helper xenstored tapback tapdisk block-tapdisk); do
        { tr '\0' ' ' </proc/$pid/cmdline; echo; cat /proc/$pid/wchan /proc/$pid/syscall; cat /proc/$pid/stack; } >>"$to/processes" 2>&1
    done
    cp -r /var/log/xen "$to/"
    xl debug-keys q
    xl dmesg >"$to/xl-dmesg"
}
over() {
    cp -r /var/log/blktap /out/ 2>/dev/null
    dmesg | grep -iE 'BUG:|WARNING:|Oops' && failed kernel 'dom0 complains'
    exit $((failures > 0))
}

# A disk of a guest, served by a tapdisk, by xl's own script: KIND DEVICE ACCESS IMAGE
disk() { echo "format=$1,vdev=$2,access=$3,backendtype=tap,target=$4"; }

# With these words besides.
start_backend() {
    tapback --kind vbd3 --kind vbd --debug "$@" >>/out/tapback.log 2>&1 &
    backend=$!
    disown
}

# Pages that one domain has mapped of another, as the hypervisor knows them: a line for each, and one for their owner.
grants() {
    xl dmesg -c >>/out/xl-dmesg-before.txt
    xl debug-keys g
    xl dmesg -c | grep -E 'grant-table for remote|\[0x'
}

# All that guests' disks may leave behind: processes, numbers, files, nodes, ports, descriptors, pages of guests that have gone,
# and of those that run.
traces() {
    echo "tapdisks: $(pidof tapdisk | wc -w)"
    tap-ctl list
    # The first ring of a host makes the budget of all.
    ls /run/blktap-control /run/blktap-control/tapdisk | grep -v '^grant-budget$'
    for root in /local/domain/0/backend /libxl; do xenstore-ls "$root" 2>/dev/null; done
    for guest in $(xenstore-list /local/domain); do xenstore-ls "/local/domain/$guest/device/vbd" 2>/dev/null; done
    xl list | grep -F '(null)'
    oxtap doctor >/tmp/doctor 2>&1 || cat /tmp/doctor
    echo "ports: $(lsevtchn 0 | wc -l)"
    echo "grants: $(grants | wc -l)"
    echo "descriptors: $(ls "/proc/$backend/fd" | wc -l)"
}

# What there is now: [FILE]
remember() { traces >"${1:-/tmp/traces}"; }

# Nothing may be left of what a story did since `remember`, nor may anything have gone: NAME [FILE]
clean() {
    for look in $(seq 30); do
        remember /tmp/traces.now
        if left=$(diff "${2:-/tmp/traces}" /tmp/traces.now); then return 0; fi
        sleep 0.5
    done
    failed "$1" "left behind: $left"
    lsevtchn 0
    return 1
}

# A story of a guest that runs to its end: NAME, then the words of lab-guest.
guest_story() {
    name=$1
    shift
    lab-guest run "$@" && clean "$name" && ok "$name" || failed "$name" "status $?"
}

# A node of a guest's own: NAME VALUE [GUEST]
tell() { xenstore-write "/local/domain/$(xl domid "${3:-guest}")/data/$1" "$2"; }
# Waits until a guest has such a node, or has ended: NAME [GUEST]
told() {
    for look in $(seq 240); do
        domain=$(xl domid "${2:-guest}" 2>/dev/null) || break
        ! xenstore-read "/local/domain/$domain/data/$1" >/dev/null 2>&1 || return 0
        ! xenstore-read "/local/domain/$domain/data/lab-exit" >/dev/null 2>&1 || break
        sleep 0.25
    done
    echo "the guest does not say $1"
    return 1
}
# What the tapdisk of an image knows, for people: PATH
stats() { oxtap stats --json "$1"; }
# Waits until a tapdisk has had some requests of an image since it began: PATH
busy() {
    for look in $(seq 240); do
        pidof tapdisk >/dev/null || break
        requests=$(stats "$1" 2>/dev/null | figure kicks_in)
        [ "${requests:-0}" -lt 20 ] || return 0
        sleep 0.25
    done
    echo "no guest is at work on $1"
    return 1
}
# The first number of this name in what is read.
figure() { sed -n "s/.*\"$1\": *\([0-9][0-9]*\).*/\1/p" | head -n 1; }

# A tapdisk that serves no guest, $pid, has an image as $minor: PATH
tapdisk_without_guest() {
    tap-ctl create -a "vhd:$1" >/dev/null && eval "$(tap-ctl list -f "$1" | tr ' ' '\n' | grep -E '^(pid|minor)=')"
}

modprobe loop
mkdir -p /images /var/log/blktap
for image in a c; do vhd-util create -n /images/$image.vhd -s 64 || exit 1; done
truncate -s 64M /images/r.img
# Whatever is logged to the host.
syslogd -O /out/messages
# Checked work until dom0 says that it is enough: DISK, then words of lab-load.
cat >/images/work <<'GUEST'
#!/bin/sh
disk=$1
shift
until [ -e /dev/$disk ]; do sleep 0.2; done
xenstore-write data/lab-works 1
(until xenstore-read data/lab-stop >/dev/null 2>&1; do sleep 0.5; done; touch /tmp/stop) &
lab-load /dev/$disk --until /tmp/stop "$@"
GUEST
start_backend
# It has connections of its own.
sleep 1
begun=$(date +%s)
# The first one makes what is there for all.
tapdisk_without_guest /images/a.vhd && tap-ctl destroy -p "$pid" -m "$minor"
remember
