# What all stories use. A story ends with `ok NAME` or with `failed NAME WHY`; `over` is the exit status.
failures=0
ok() { echo "ok $1"; }
failed() { echo "failed $1: ${*:2}"; failures=$((failures + 1)); }
over() {
    cp -r /var/log/blktap /out/ 2>/dev/null
    dmesg | grep -iE 'BUG:|WARNING:|Oops' && failed kernel 'dom0 complains'
    exit $((failures > 0))
}

# A disk of a guest, served by a tapdisk, by xl's own script: KIND DEVICE ACCESS IMAGE
disk() { echo "format=$1,vdev=$2,access=$3,backendtype=tap,target=$4"; }

start_backend() {
    tapback --kind vbd3 --kind vbd --debug >>/out/tapback.log 2>&1 &
    backend=$!
    disown
}

ports() { lsevtchn 0 | wc -l; }

# Nothing may be left of what a story did: processes, numbers, nodes, ports, pages of guests that have gone.
clean() {
    for look in 1 2 3 4 5 6 7 8 9 10; do
        left=$(
            tap-ctl list
            xenstore-ls /local/domain/0/backend 2>/dev/null
            pidof tapdisk
            xl list | grep -F '(null)'
            oxtap doctor >/tmp/doctor 2>&1 || cat /tmp/doctor
            [ "$(ports)" = "$ports_at_first" ] || lsevtchn 0
        )
        [ -n "$left" ] || return 0
        sleep 0.5
    done
    failed "$1" "left behind: $left"
    return 1
}

# A story of a guest that runs to its end: NAME, then the words of lab-guest.
guest_story() {
    name=$1
    shift
    lab-guest run "$@" && clean "$name" && ok "$name" || failed "$name" "status $?"
}

modprobe loop
mkdir -p /images
start_backend
# It has connections of its own.
sleep 1
ports_at_first=$(ports)
