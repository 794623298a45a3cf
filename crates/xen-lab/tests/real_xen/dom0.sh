# dom0 is its own guest: a frontend of ours, with pages of gntalloc and channels of evtchn, before our own backend.
# Linux notes when a page that was taken back is still in use, if it is asked to.
echo 'file grant-table.c format deferring +p' >/proc/dynamic_debug/control
kept() { dmesg | grep -c 'g\.e\.'; }
# How many descriptors our programs have open, and how many ports dom0 has.
held() { echo "descriptors $(for p in $(pidof tapdisk) $backend; do ls /proc/$p/fd; done | wc -l), ports $(lsevtchn 0 | wc -l), pages $(grants | grep -c '\[0x')"; }

# What these stories are there for was broken on purpose, once each, in programs built for that:
# - a tapdisk that leaves pages of a ring mapped: kernels_of_dom0 said `before: descriptors 39, ports 17, pages 1; after:
#   descriptors 39, ports 17, pages 7`;
# - a tapback that says Closed 0.7 s before the ring is let go of: kernels_of_dom0 said `before: descriptors 44, ports 18, pages
#   1; after: descriptors 41, ports 17, pages 0` in ten of ten tries, of twelve kernels and of one: the first kernel had ended,
#   and its ring was still there;
# - a tapback that does not wait for the script: ring_before_the_script said `before the script has ended: state 4`.

# NAME, then the words of `oxtap guest`: after one kernel that warms everything up, nothing may be more than before.
own_guest() {
    name=$1
    shift
    oxtap guest /dev/xen 0 xvda --requests 20 >/dev/null || { failed "$name" "the first kernel: $?"; return; }
    local kept_before=$(kept) before=$(held)
    oxtap guest /dev/xen 0 xvda --patience 30 "$@" || { failed "$name" "oxtap guest: $?"; return; }
    for look in 1 2 3 4 5 6; do
        [ "$(held)" = "$before" ] && break
        sleep 0.5
    done
    [ "$(held)" = "$before" ] || { failed "$name" "before: $before; after: $(held)"; return; }
    [ "$(kept)" = "$kept_before" ] || { failed "$name" "pages were in use that were taken back: $(dmesg | grep 'g\.e\.' | tail -3)"; return; }
    ok "$name"
}

# Each kernel reads all of it.
truncate -s 1M /images/own.img

# A script that takes its time, and a guest that is in a hurry: its ring is there before the script has named the disk, and
# waits for it, though a disk of that image could be found.
name=ring_before_the_script
state() { xenstore-read "$1/state" 2>/dev/null; }
alive() { kill -0 "$1" 2>/dev/null; }
hurried() {
    local nodes=/local/domain/0/backend/vbd3/0/51712 early='' seen guest attaching
    tap-ctl create -a aio:/images/own.img >/dev/null || return 8
    cp /lab/bin/tap-ctl /images/tap-ctl
    printf '#!/bin/sh\n[ "$1" != list ] || sleep 3\nexec /images/tap-ctl "$@"\n' >/images/slow-tap-ctl
    chmod 755 /images/slow-tap-ctl
    mount --bind /images/slow-tap-ctl /lab/bin/tap-ctl
    xl block-attach 0 "$(disk raw xvda rw /images/own.img)" &
    attaching=$!
    until [ "$(state $nodes)" = 2 ] || ! alive $attaching; do sleep 0.1; done
    oxtap guest /dev/xen 0 xvda --requests 20 --patience 30 >/dev/null &
    guest=$!
    until [ "$(state /local/domain/0/device/vbd/51712)" = 3 ] || ! alive $guest; do sleep 0.1; done
    while alive $attaching && ! xenstore-exists $nodes/hotplug-status; do
        seen=$(state $nodes)
        [ "$seen" = 2 ] || xenstore-exists $nodes/hotplug-status || early=$seen
        sleep 0.1
    done
    wait $attaching && wait $guest || early="$early, and the guest did not get its disk"
    umount /lab/bin/tap-ctl
    xl block-detach 0 xvda
    [ -z "$early" ] || echo "before the script has ended: state $early"
    [ -z "$early" ]
}
# The first disk of dom0 leaves empty directories of its toolstack's.
xl block-attach 0 "$(disk raw xvda rw /images/own.img)" && xl block-detach 0 xvda && remember || failed "$name" "attach: $?"
hurried && clean $name && ok $name || failed $name $?

if xl block-attach 0 "$(disk raw xvda rw /images/own.img)"; then
    own_guest kernels_of_dom0 --cycles "$cycles" --requests 40 --queues 2 --ring-order 1
    own_guest kernels_of_dom0_that_keep_pages --cycles 3 --requests 40 --persistent
    # As mini-os does it: the ring, and 4.
    lab-trace start
    own_guest jump_from_1_to_4 --cycles 3 --requests 40 --jump
    lab-trace stop /out/jump.trace
    # The kernel before the jumps went the usual way.
    states=$(grep -oE 'WRITE .*/0/device/vbd/51712/state [0-9]' /out/jump.trace | grep -oE '[0-9]$' | tr -d '\n')
    [ "$states" = 34561456145614561 ] && ok the_states_of_a_jump || failed the_states_of_a_jump "$states"
    # A kernel that falls over leaves its ring where it is; the next one gets it back, and all that it did not use any more.
    oxtap guest /dev/xen 0 xvda --cycles 4 --requests 40 --handover mixed --patience 30 && ok kernels_of_dom0_that_fall_over ||
        failed kernels_of_dom0_that_fall_over $?
    xl block-detach 0 xvda
    clean dom0_as_a_guest && ok dom0_as_a_guest
else
    failed dom0_as_a_guest "block-attach: $?"
fi
