# What dom0 does to the storage below a disk of ours, and to a disk without any guest.
modprobe dm-mod
modprobe nbd nbds_max=4
# There is no udev here. And LVM reads every device that it finds: it would wait for a disk of ours that is paused.
export DM_DISABLE_UDEV=1 LVM_SUPPRESS_FD_WARNINGS=1
mkdir -p /etc/lvm
cat >/etc/lvm/lvm.conf <<'X'
devices { global_filter = [ "a|^/dev/loop|", "r|.*|" ] }
activation { udev_sync = 0 udev_rules = 0 }
X
truncate -s 200M /images/volumes
loop=$(losetup -f --show /images/volumes)
{ lvm pvcreate -y $loop && lvm vgcreate vg $loop; } >/dev/null || failed volumes $?
volume() { lvm lvcreate -q -y -Zn -Wn -n "$1" -L "$2"M vg >/dev/null 2>&1 && echo "/dev/vg/$1"; }
# Opens a disk, TYPE:PATH, and sets `at` (the words -p -m that name it) and `socket`.
opened() {
    at=$(tap-ctl create -a "$1") && at=$(tap-ctl list -m "${at##*-}" | sed -n 's/^pid=\([0-9]*\) minor=\([0-9]*\).*/-p \1 -m \2/p') &&
        socket=$(echo $at | sed 's/-p \(.*\) -m \(.*\)/\/run\/blktap-control\/nbd\1.\2/')
}
# Runs a command that may take so many seconds. (Ten times what it takes.)
within() { timeout -k 1 "$@"; }

# A volume of LVM grows while the disk on it is paused, and its reader sees that when it goes on.
name=volume_grows_under_a_paused_disk
grows() {
    opened "aio:$(volume grows 32)" || return 1
    local id="${at##*-m }"
    size() { oxtap ls --json | grep -oE '"(size|bytes|sectors)[a-z_]*": *[0-9]+' | head -1; }
    before=$(size)
    tap-ctl pause $at && lvm lvextend -q -L 48M vg/grows >/dev/null && tap-ctl unpause $at || return 2
    after=$(size)
    echo "$before, then $after"
    [ "$before" != "$after" ] || return 3
    dd if=/dev/urandom of=/tmp/x bs=1M count=2 2>/dev/null
    nbd-client -unix "$socket" /dev/nbd0 >/dev/null || return 4
    [ "$(blockdev --getsize64 /dev/nbd0)" = $((48 << 20)) ] || return 5
    dd if=/tmp/x of=/dev/nbd0 bs=1M seek=46 oflag=direct 2>/dev/null && nbd-client -d /dev/nbd0 >/dev/null || return 6
    tap-ctl destroy $at || return 7
    dd if=/dev/vg/grows bs=1M skip=46 of=/tmp/y 2>/dev/null && cmp /tmp/x /tmp/y
}
grows && clean $name && ok $name || failed $name $?

# A disk of the host itself: no guest, no VBD.
name=file_system_without_a_guest
without_a_guest() {
    vhd-util create -n /images/host.vhd -s 64 && opened vhd:/images/host.vhd || return 1
    nbd-client -unix "$socket" /dev/nbd1 >/dev/null || return 2
    mkfs.ext4 -q /dev/nbd1 && mkdir -p /m && mount -t ext4 /dev/nbd1 /m || return 3
    dd if=/dev/urandom of=/m/f bs=64k count=100 2>/dev/null
    sum=$(sha256sum </m/f)
    # A snapshot below a mounted file system.
    sync && tap-ctl pause $at && vhd-util snapshot -n /images/host2.vhd -p /images/host.vhd && tap-ctl unpause $at -a vhd:/images/host2.vhd || return 4
    dd if=/dev/urandom of=/m/g bs=64k count=50 2>/dev/null
    umount /m && mount -t ext4 /dev/nbd1 /m && [ "$(sha256sum </m/f)" = "$sum" ] && umount /m || return 5
    e2fsck -fn /dev/nbd1 >/dev/null 2>&1 || return 6
    nbd-client -d /dev/nbd1 >/dev/null
    tap-ctl destroy $at
}
without_a_guest && clean $name && ok $name || failed $name $?

# A VHD on a volume has its footer at the end of the volume, and a copy at its start.
name=footer_lost_on_a_volume
footer_lost() {
    local on=$(volume footer 40)
    vhd-util create -n $on -s 32 && opened vhd:$on || return 1
    nbd-client -unix "$socket" /dev/nbd0 >/dev/null || return 2
    dd if=/dev/urandom of=/tmp/x bs=1M count=4 2>/dev/null
    dd if=/tmp/x of=/dev/nbd0 bs=1M seek=8 oflag=direct 2>/dev/null || return 3
    nbd-client -d /dev/nbd0 >/dev/null && tap-ctl destroy $at || return 4
    footer() { dd if=$on bs=512 skip=$(($(blockdev --getsz $on) - 1)) count=1 2>/dev/null; }
    [ "$(footer | head -c 8)" = conectix ] || return 5
    dd if=/dev/zero of=$on bs=512 count=1 seek=$(($(blockdev --getsz $on) - 1)) conv=fsync,notrunc 2>/dev/null
    opened vhd:$on && nbd-client -unix "$socket" /dev/nbd0 >/dev/null || return 6
    dd if=/dev/nbd0 of=/tmp/y bs=1M skip=8 count=4 iflag=direct 2>/dev/null
    # The first writer has it made whole again.
    dd if=/tmp/x of=/dev/nbd0 bs=1M seek=20 count=1 oflag=direct 2>/dev/null || return 7
    nbd-client -d /dev/nbd0 >/dev/null && tap-ctl destroy $at && cmp /tmp/x /tmp/y || return 8
    [ "$(footer | head -c 8)" = conectix ]
}
footer_lost && clean $name && ok $name || failed $name $?

# `vhd-util repair` does that, too.
name=repair_on_a_volume
repaired() {
    local on=$(volume repaired 40)
    vhd-util create -n $on -s 32 && opened vhd:$on || return 1
    nbd-client -unix "$socket" /dev/nbd0 >/dev/null || return 2
    dd if=/dev/urandom of=/tmp/x bs=1M count=4 2>/dev/null
    dd if=/tmp/x of=/dev/nbd0 bs=1M seek=8 oflag=direct 2>/dev/null || return 3
    nbd-client -d /dev/nbd0 >/dev/null && tap-ctl destroy $at || return 4
    dd if=/dev/zero of=$on bs=512 count=1 seek=$(($(blockdev --getsz $on) - 1)) conv=fsync,notrunc 2>/dev/null
    vhd-util repair -n $on || return 6
    # At the end of the volume, however little of it is used.
    [ "$(dd if=$on bs=512 skip=$(($(blockdev --getsz $on) - 1)) count=1 2>/dev/null | head -c 8)" = conectix ] || return 7
    opened vhd:$on && nbd-client -unix "$socket" /dev/nbd0 >/dev/null || return 8
    dd if=/dev/nbd0 of=/tmp/y bs=1M skip=8 count=4 iflag=direct 2>/dev/null
    nbd-client -d /dev/nbd0 >/dev/null && tap-ctl destroy $at && cmp /tmp/x /tmp/y
}
repaired && clean $name && ok $name || failed $name $?

# A device that is suspended takes requests and answers none. Whoever waits for it has a limit, and a disk beside it has none
# of its troubles.
name=suspended_device
state() { tap-ctl list | tee /tmp/list | grep -q "minor=${at##*-m } state=$1 "; }
suspended() {
    opened "aio:$(volume beside 16)" || return 1
    local beside=$at beside_socket=$socket
    opened "aio:$(volume suspended 32)" || return 2
    nbd-client -unix "$socket" /dev/nbd0 >/dev/null && nbd-client -unix "$beside_socket" /dev/nbd1 >/dev/null || return 3
    dd if=/dev/urandom of=/tmp/x bs=64k count=4 2>/dev/null
    dmsetup suspend --noudevsync vg-suspended || return 4
    dd if=/tmp/x of=/dev/nbd0 bs=64k seek=10 oflag=direct 2>/dev/null &
    local writer=$!
    sleep 0.5
    # A pause with a deadline gives up, and the disk is as before.
    ! within 60 oxtap pause "$socket" --deadline 2 2>/tmp/said && cat /tmp/said || return 5
    state '0' || return 6
    # One whose client alone gives up goes on.
    within 60 tap-ctl pause $at -t 2 2>/tmp/said
    [ $? = 110 ] && cat /tmp/said || return 7
    dmsetup resume --noudevsync vg-suspended
    for look in $(seq 50); do state 0x2a && break || sleep 0.2; done
    within 20 tap-ctl unpause $at && wait $writer || return 8
    dd if=/dev/vg/suspended of=/tmp/y bs=64k skip=10 count=4 2>/dev/null && cmp /tmp/x /tmp/y || return 9
    dmsetup suspend --noudevsync vg-suspended || return 10
    dd if=/tmp/x of=/dev/nbd0 bs=64k seek=20 oflag=direct 2>/dev/null &
    writer=$!
    sleep 0.5
    within 60 tap-ctl close $at -t 2 2>/tmp/said
    [ $? = 110 ] && cat /tmp/said || return 11
    # By force, its clients are let go of at once; it ends whatever the device does, and says what still hangs.
    within 60 tap-ctl close -f $at 2>/tmp/said
    [ $? = 110 ] && grep 'storage hangs' /tmp/said || return 12
    # (Linux waits for a server that has gone until it is told not to.)
    nbd-client -d /dev/nbd0 >/dev/null
    ! wait $writer || return 12
    within 20 dd if=/dev/nbd1 of=/dev/null bs=64k count=4 iflag=direct 2>/dev/null || return 13
    within 20 oxtap ls >/dev/null && within 20 tap-ctl pause $beside -t 10 && within 20 tap-ctl unpause $beside || return 14
    dmsetup resume --noudevsync vg-suspended
    nbd-client -d /dev/nbd1 >/dev/null
    within 30 tap-ctl destroy $at && within 30 tap-ctl destroy $beside
}
suspended && clean $name && ok $name || failed $name $?
lvm vgchange -q -an vg >/dev/null && losetup -d $loop
