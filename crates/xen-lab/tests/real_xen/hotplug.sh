# Disks by our own script, which starts a tapdisk for each: many at once, and of the kind that the kernel's backend has where
# it is loaded.
ln -s /lab/bin/block-tapdisk /etc/xen/scripts/block-tapdisk
# As the unit has it: a toolstack waits ten seconds for its answer, however much it has begun at once itself. dom0 has one
# processor here, which XenStore needs before all others.
renice -n -10 -p $backend $(pidof xenstored)
mkdir -p /images/many
letters=$(echo a b c d e f g h i j k l m n o p q r s t)
for letter in $letters; do
    case $letter in
    [a-j]) vhd-util create -n /images/many/$letter -s 16 ;;
    *) truncate -s 16M /images/many/$letter ;;
    esac || exit 1
done

# A disk by our script, of kind vbd3 or vbd: KIND FORMAT DEVICE IMAGE
ours() {
    case $1 in
    vbd3) echo "format=$2,vdev=$3,access=rw,backendtype=tap,script=block-tapdisk,target=$4" ;;
    # With this format, and no other, xl leaves everything to the script; so the script is told the type.
    vbd) echo "format=raw,vdev=$3,access=rw,script=block-tapdisk,target=${2/raw/aio}:$4" ;;
    esac
}
many() { case $1 in [a-j]) ours vbd3 vhd xvd$1 /images/many/$1 ;; *) ours vbd3 raw xvd$1 /images/many/$1 ;; esac; }

# Waits for twenty disks; each has its own name written into it, and read.
cat >/images/twenty <<'X'
#!/bin/sh
set -e
until [ "$(ls -d /sys/block/xvd? | wc -l)" = 20 ]; do sleep 0.3; done
for disk in /dev/xvd?; do yes "$disk" | dd of=$disk bs=64k count=4 iflag=fullblock oflag=direct 2>/dev/null; done
for disk in /dev/xvd?; do
    dd if=$disk of=/tmp/read bs=64k count=4 iflag=direct 2>/dev/null
    yes "$disk" | dd bs=64k count=4 iflag=fullblock 2>/dev/null | cmp - /tmp/read
done
echo "twenty disks are well"
X
cat >/images/wait <<'X'
#!/bin/sh
sleep 1000
X

began() { start=$(date +%s); }
took() { echo "$1: $(($(date +%s) - start)) s"; }

name=twenty_disks_in_one_create
disks=()
for letter in $letters; do disks+=(-d "$(many $letter)"); done
began
lab-guest start -m 420 "${disks[@]}" /images/twenty >/dev/null || failed $name "start $?"
took "twenty disks in one create"
[ "$(tap-ctl list | wc -l)" = 20 ] || failed $name "$(tap-ctl list)"
LAB_KEEP=1 lab-guest wait || failed $name "the guest: $?"
began
xl destroy guest || failed $name "destroy $?"
took "their end"
clean $name && ok $name

# The bytes of a raw image are those of its disk: IMAGE WORD
holds() { cmp <(yes "$2" | head -c 262144) <(head -c 262144 "$1"); }
name=what_was_written_is_there
holds /images/many/k /dev/xvdk && holds /images/many/t /dev/xvdt && ok $name || failed $name 'something else is'

name=twenty_attaches_at_the_same_time
lab-guest start -m 420 /images/twenty >/dev/null || failed $name "start $?"
at_once() { # VERB, and what each letter is told as
    pids=''
    for letter in $letters; do
        xl "$1" guest "$($2 $letter)" >/out/$1.$letter 2>&1 &
        pids="$pids $!"
    done
    for pid in $pids; do wait $pid || failed $name "$1: $(cat /out/$1.?)"; done
}
began
at_once block-attach many
took "twenty attaches"
[ "$(tap-ctl list | wc -l)" = 20 ] || failed $name "$(tap-ctl list)"
LAB_KEEP=1 lab-guest wait || failed $name "the guest: $?"
xl destroy guest || failed $name "destroy $?"
clean $name && ok $name

name=twenty_detaches_at_the_same_time
lab-guest start -m 420 "${disks[@]}" /images/wait >/dev/null || failed $name "start $?"
device() { echo xvd$1; }
began
at_once block-detach device
took "twenty detaches"
[ -z "$(tap-ctl list)" ] || failed $name "$(tap-ctl list)"
xl destroy guest || failed $name "destroy $?"
clean $name && ok $name

# xen-blkback is not loaded: devices of kind vbd are served by whoever has them.
name=kind_vbd
cat >/images/one-and-another <<'X'
#!/bin/sh
set -e
yes one | dd of=/dev/xvda bs=64k count=4 iflag=fullblock oflag=direct 2>/dev/null
until [ -e /dev/xvdb ]; do sleep 0.3; done
yes another | dd of=/dev/xvdb bs=64k count=4 iflag=fullblock oflag=direct 2>/dev/null
xenstore-write data/written 1
while [ -e /dev/xvdb ]; do sleep 0.3; done
xenstore-write data/detached 1
while dd if=/dev/zero of=/dev/xvda bs=64k count=100 oflag=direct 2>/dev/null; do :; done
sleep 1000
X
until_node() { # NAME: the guest has written it
    for look in $(seq 240); do
        xenstore-read "/local/domain/$(xl domid guest)/data/$1" >/dev/null 2>&1 && return 0
        sleep 0.25
    done
    return 1
}
[ ! -e /sys/module/xen_blkback ] || failed $name "xen-blkback is loaded"
lab-guest start -d "$(ours vbd vhd xvda /images/many/a)" /images/one-and-another >/dev/null || failed $name "start $?"
xl block-attach guest "$(ours vbd raw xvdb /images/many/k)" && until_node written || failed $name "attach $?"
xenstore-ls /local/domain/0/backend | grep -q '^vbd = ' || failed $name "$(xenstore-ls /local/domain/0/backend)"
# What cannot be had is told by xl in the script's words.
xl block-attach guest "$(ours vbd raw xvdc /images/nonexistent)" 2>&1 | grep -q '/images/nonexistent' ||
    failed $name "xl does not say what is wrong"
xl block-detach guest xvdb && until_node detached || failed $name "detach $?"
sleep 1
xl destroy guest && clean $name && ok $name || failed $name "destroy $?"
holds /images/many/k another || failed $name "what was written is not there"

# xl kills a script that takes too long, or somebody does: what it has left is taken up or taken away.
name=script_killed
vhd-util create -n /images/s.vhd -s 16
lab-guest start /images/wait >/dev/null
for pause in 0.05 0.15 0.3 0.6 1; do
    xl block-attach guest "$(ours vbd3 vhd xvdb /images/s.vhd)" >/out/killed.log 2>&1 &
    attaching=$!
    for look in $(seq 200); do
        script=$(pidof block-tapdisk) && break
        sleep 0.02
    done
    sleep $pause
    kill -9 $script 2>/dev/null
    wait $attaching && echo "it was done after $pause s"
    xl block-detach --force guest xvdb >>/out/killed.log 2>&1
    # The toolstack leaves the directory of an attach that has failed.
    xenstore-rm /local/domain/0/backend/vbd3 2>/dev/null
    domain=$(xl domid guest)
    xenstore-rm /local/domain/$domain/device/vbd 2>/dev/null
    xenstore-rm /libxl/$domain/device/vbd 2>/dev/null
done
xl block-attach guest "$(ours vbd3 vhd xvdb /images/s.vhd)" && xl block-detach guest xvdb || failed $name "afterwards: $?"
xl destroy guest
# A disk whose device has gone is given fifteen seconds; a tapdisk that was not told for whom it is stays, and is found.
sleep 20
oxtap doctor --repair >/out/repair.log
clean $name && ok $name || failed $name "left: $?"
