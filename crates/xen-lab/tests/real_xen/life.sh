# A guest's disks from their coming to their end, by the stock toolstack.
for image in a b c; do vhd-util create -n /images/$image.vhd -s 64 || exit 1; done
vhd-util snapshot -n /images/b2.vhd -p /images/b.vhd && vhd-util snapshot -n /images/b3.vhd -p /images/b2.vhd || exit 1
truncate -s 64M /images/r.img

# What is written is read: in large requests and small ones, on each disk that is there.
cat >/images/check <<'X'
#!/bin/sh
set -e
for disk in xvda xvdb xvdc; do
    [ -e /dev/$disk ] || continue
    echo "$disk: $(ls /sys/block/$disk/mq | wc -l) queues, $(cat /sys/block/$disk/queue/write_cache)"
    dd if=/dev/urandom of=/tmp/x bs=1M count=8 2>/dev/null
    dd if=/tmp/x of=/dev/$disk bs=128k seek=3 oflag=direct 2>/dev/null
    dd if=/dev/$disk of=/tmp/y bs=128k skip=3 count=64 iflag=direct 2>/dev/null
    cmp /tmp/x /tmp/y
    dd if=/tmp/x of=/dev/$disk bs=4k seek=5000 count=300 oflag=direct conv=fsync 2>/dev/null
    dd if=/dev/$disk of=/tmp/y bs=4k skip=5000 count=300 iflag=direct 2>/dev/null
    dd if=/tmp/x of=/tmp/z bs=4k count=300 2>/dev/null
    cmp /tmp/z /tmp/y
    blkdiscard -o 0 -l 1048576 /dev/$disk
    dd if=/dev/$disk of=/tmp/y bs=64k count=16 iflag=direct 2>/dev/null
    dd if=/dev/zero of=/tmp/z bs=64k count=16 2>/dev/null
    cmp /tmp/z /tmp/y
done
X
cat >/images/file-system <<'X'
#!/bin/sh
set -ex
mkfs.ext4 -q /dev/xvda
mkdir -p /m
mount -t ext4 /dev/xvda /m
dd if=/dev/urandom of=/m/f bs=64k count=200 2>/dev/null
sum=$(sha256sum </m/f)
umount /m
mount -t ext4 /dev/xvda /m
[ "$(sha256sum </m/f)" = "$sum" ]
rm /m/f
fstrim -v /m
umount /m
e2fsck -fn /dev/xvda
X
cat >/images/read-only <<'X'
#!/bin/sh
[ "$(cat /sys/block/xvda/ro)" = 1 ] && dd if=/dev/xvda of=/dev/null bs=1M count=4 iflag=direct
X
cat >/images/load <<'X'
#!/bin/sh
while dd if=/dev/zero of=/dev/xvda bs=64k count=200 oflag=direct 2>/dev/null; do :; done
sleep 1000
X
# Rounds of writing and reading, each checked; it fails at the first that differs.
cat >/images/verify <<'X'
#!/bin/sh
for round in $(seq "$1"); do
    dd if=/dev/urandom of=/tmp/x bs=1M count=2 2>/dev/null
    dd if=/tmp/x of=/dev/xvda bs=64k oflag=direct 2>/dev/null || exit 3
    dd if=/dev/xvda of=/tmp/y bs=64k count=32 iflag=direct 2>/dev/null || exit 4
    cmp /tmp/x /tmp/y || exit 5
done
X

guest_story file_system -d "$(disk vhd xvda rw /images/a.vhd)" /images/file-system
# blkfront takes 64 MiB for each queue of this size before it begins.
guest_story three_disks_with_two_large_rings_each -m 900 -v 2 \
    -a 'xen_blkfront.max_queues=2 xen_blkfront.max_ring_page_order=4' -d "$(disk vhd xvda rw /images/a.vhd)" \
    -d "$(disk vhd xvdb rw /images/b3.vhd)" -d "$(disk raw xvdc rw /images/r.img)" /images/check
guest_story small_rings_without_indirect_requests -a 'xen_blkfront.max_indirect_segments=0' \
    -d "$(disk vhd xvda rw /images/b3.vhd)" /images/check
guest_story read_only -d "$(disk vhd xvda ro /images/a.vhd)" /images/read-only

loaded() { lab-guest start -d "$(disk vhd xvda rw /images/a.vhd)" /images/load >/dev/null && sleep 1.5; }
loaded && xl destroy guest && clean destroy_under_load && ok destroy_under_load || failed destroy_under_load $?
for how in '' --force; do
    name=detach_under_load${how:+_by_force}
    loaded && xl block-detach $how guest xvda && xl destroy guest && clean $name && ok $name || failed $name $?
done
lab-guest start -d "$(disk vhd xvda rw /images/a.vhd)" /images/verify 400 >/dev/null
lab-guest start -n other -d "$(disk raw xvda rw /images/r.img)" /images/verify 6 >/dev/null
xl destroy guest
lab-guest wait -n other && clean two_guests && ok two_guests || failed two_guests $?

name=backend_killed_under_load
lab-guest start -d "$(disk vhd xvda rw /images/a.vhd)" /images/verify 30 >/dev/null
sleep 1
kill -9 $backend
sleep 1
start_backend
lab-guest wait && clean $name && ok $name || failed $name $?

name=save_and_restore
lab-guest start -m 128 -d "$(disk vhd xvda rw /images/a.vhd)" /images/verify 30 >/dev/null
sleep 1
xl save guest /images/saved && clean "$name, saved" && xl restore -e /images/saved &&
    xl domid guest >/run/lab-guest/guest/domain && lab-guest wait && clean $name && ok $name || failed $name $?
rm -f /images/saved

name=pause_and_unpause
lab-guest start -d "$(disk vhd xvda rw /images/a.vhd)" /images/verify 20 >/dev/null
xl pause guest && sleep 1 && xl unpause guest && lab-guest wait && clean $name && ok $name || failed $name $?

name=attached_while_it_runs
cat >/images/awaiting <<'X'
#!/bin/sh
until [ -e /dev/xvdb ]; do sleep 0.2; done
dd if=/dev/urandom of=/tmp/x bs=1M count=2 2>/dev/null
dd if=/tmp/x of=/dev/xvdb bs=64k oflag=direct && dd if=/dev/xvdb of=/tmp/y bs=64k count=32 iflag=direct && cmp /tmp/x /tmp/y
X
lab-guest start /images/awaiting >/dev/null && xl block-attach guest "$(disk vhd xvdb rw /images/c.vhd)" && lab-guest wait &&
    clean $name && ok $name || failed $name $?
over
