# What Linux and the backend agree upon, and work in all the ways that there are to agree.
truncate -s 64M /images/whole.img
for image in base middle leaf; do
    case $image in
    base) vhd-util create -n /images/base.vhd -s 64 && places='0 1 2 3 4 5 6 7' ;;
    middle) vhd-util snapshot -n /images/middle.vhd -p /images/base.vhd && places='2 3 6 7' ;;
    leaf) vhd-util snapshot -n /images/leaf.vhd -p /images/middle.vhd && places='3 5 7' ;;
    esac || exit 1
    # Written through a tapdisk that serves no guest.
    modprobe nbd
    tapdisk_without_guest "/images/$image.vhd" &&
        /sbin/nbd-client -unix "/run/blktap-control/nbd$pid.$minor" /dev/nbd0 >/dev/null || exit 1
    for place in $places; do
        dd if=/dev/urandom of=/images/chunk bs=1M count=1 2>/dev/null
        for to in /dev/nbd0 /images/whole.img; do dd if=/images/chunk of=$to bs=1M seek="$place" conv=notrunc,fsync 2>/dev/null; done
    done
    /sbin/nbd-client -d /dev/nbd0 >/dev/null && tap-ctl destroy -p "$pid" -m "$minor" || exit 1
    sum=$(dd if=/images/whole.img bs=1M count=16 2>/dev/null | sha256sum)
    [ $image != middle ] || two_levels=${sum% *}
done
three_levels=${sum% *}

# QUEUES ORDER SEGMENTS PERSISTENT SUM: what each disk has, whether the first lets pages stay mapped, and what the second reads as.
cat >/images/agreed <<'GUEST'
#!/bin/sh
set -e
queues=$1 order=$2 segments=$3 persistent=$4 sum=$5
is() { [ "$2" = "$3" ] || { echo "$disk: $1 is '$2', not '$3'"; exit 6; }; }
read_node() { xenstore-read "$1" 2>/dev/null || echo "$2"; }
device=51712
for disk in xvda xvdb xvdc; do
    [ -e /dev/$disk ] || continue
    front=device/vbd/$device back=$(xenstore-read device/vbd/$device/backend)
    is queues "$(read_node $front/multi-queue-num-queues 1)" "$queues"
    is queues "$(ls /sys/block/$disk/mq | wc -l)" "$queues"
    is order "$(read_node $front/ring-page-order 0)" "$order"
    is segments "$(cat /sys/block/$disk/queue/max_segments)" "$segments"
    is flushes "$(cat /sys/block/$disk/queue/write_cache)" 'write back'
    is 'pages stay mapped' "$(read_node "$back/feature-persistent" 0)" "$persistent"
    persistent=0 device=$((device + 16))
done
[ "$(dd if=/dev/xvdb bs=1M count=16 iflag=direct 2>/dev/null | sha256sum)" = "$sum  -" ]
for disk in xvda xvdb xvdc; do
    [ -e /dev/$disk ] || continue
    lab-load /dev/$disk --request 128 --depth 16 --requests 24
    lab-load /dev/$disk --request 4 --span 4 --depth 32 --requests 24
    # What is thrown away reads as zeroes where no parent has anything there, and nothing beside it is.
    dd if=/dev/$disk of=/tmp/beside bs=64k skip=16 count=1 iflag=direct 2>/dev/null
    blkdiscard -o 0 -l 1048576 /dev/$disk
    [ $disk = xvdb ] || [ "$(dd if=/dev/$disk bs=64k count=16 iflag=direct 2>/dev/null | tr -d '\0' | wc -c)" = 0 ]
    dd if=/dev/$disk bs=64k skip=16 count=1 iflag=direct 2>/dev/null | cmp - /tmp/beside
done
xenstore-write data/lab-works 1
until xenstore-read data/lab-stop >/dev/null 2>&1; do sleep 0.2; done
GUEST

# Pages of the first disk stay mapped if the guest agrees; the others' do not.
persistent='xenstore-write "/local/domain/0/backend/vbd3/$1/51712/persistent-enable" 1'
# NAME MAPPED WHOLE: whether anything was copied by way of pages that stay mapped, and whether each of the guest's requests came as
# one: without indirect requests those of 128 KiB cannot.
is_agreed() {
    told lab-works || return 1
    stats /images/c.vhd >"/out/$1.json"
    tell lab-stop 1 && lab-guest wait | tee /tmp/said || return 1
    mapped=$(figure mapped_copies <"/out/$1.json")
    [ $((mapped > 0)) = "$2" ] || { echo "$mapped copies by way of pages that stay mapped"; return 1; }
    asked=$(sed -n 's/.*writes=\([0-9]*\).*/\1/p' /tmp/said | head -n 2 | awk '{ sum += $1 } END { print sum }')
    came=$(grep -A 1 '"write": {' "/out/$1.json" | figure requests)
    [ $((came == asked)) = "$3" ] || { echo "$asked writes have come as $came"; return 1; }
}

name=three_disks_with_two_large_rings_each
# blkfront takes 64 MiB for each queue of this size before it begins.
lab-guest start -m 900 -v 2 -a 'xen_blkfront.max_queues=2 xen_blkfront.max_ring_page_order=4' -x "$persistent" \
    -d "$(disk vhd xvda rw /images/c.vhd)" -d "$(disk vhd xvdb rw /images/leaf.vhd)" -d "$(disk raw xvdc rw /images/r.img)" \
    /images/agreed 2 4 32 1 $three_levels >/dev/null
is_agreed $name 1 1 && clean $name && ok $name || failed $name $?

name=small_rings_without_indirect_requests
# What the last guest has written and thrown away was the leaf's alone.
rm /images/leaf.vhd && vhd-util snapshot -n /images/leaf.vhd -p /images/middle.vhd || exit 1
lab-guest start -x "$persistent" \
    -a 'xen_blkfront.max_indirect_segments=0 xen_blkfront.max_ring_page_order=0 xen_blkfront.feature_persistent=0' \
    -d "$(disk vhd xvda rw /images/c.vhd)" -d "$(disk vhd xvdb rw /images/leaf.vhd)" \
    /images/agreed 1 0 11 0 $two_levels >/dev/null
is_agreed $name 0 0 && clean $name && ok $name || failed $name $?

# Where barriers are offered and flushes are not, Linux makes each flush, and each write that shall be durable at once, a barrier.
# We offer both; so the guest stands still while the offer is changed.
cat >/images/barriers <<'GUEST'
#!/bin/sh
set -ex
[ "$(cat /sys/block/xvda/queue/write_cache) $(cat /sys/block/xvda/queue/fua)" = 'write back 1' ]
mkfs.ext4 -q /dev/xvda
mkdir -p /m
mount -t ext4 /dev/xvda /m
dd if=/dev/urandom of=/m/f bs=64k count=50 conv=fsync
sum=$(sha256sum </m/f)
umount /m
mount -t ext4 /dev/xvda /m
[ "$(sha256sum </m/f)" = "$sum" ]
umount /m
e2fsck -fn /dev/xvda
lab-load /dev/xvda --depth 16 --requests 70
xenstore-write data/lab-works 1
until xenstore-read data/lab-stop >/dev/null 2>&1; do sleep 0.2; done
GUEST
cat >/images/only-barriers <<'X'
#!/bin/sh
# GUEST BACKEND: the backend sees the guest's ring when this is ready for that.
back=/local/domain/0/backend/vbd3/$1/51712
until_state() { # DIRECTORY STATE
    for look in $(seq 1200); do
        [ "$(xenstore-read "$1/state" 2>/dev/null)" != "$2" ] || return 0
        sleep 0.1
    done
    return 1
}
kill -STOP $2
{
    until_state /local/domain/$1/device/vbd/51712 3 && xl pause $1
    kill -CONT $2
    until_state $back 4 && xenstore-write $back/feature-flush-cache 0 && xl unpause $1
} >/dev/null 2>&1 &
X
name=barriers
lab-guest start -x "sh /images/only-barriers \$1 $backend" -d "$(disk vhd xvda rw /images/c.vhd)" /images/barriers >/dev/null &&
    told lab-works && stats /images/c.vhd >/out/$name.json && tell lab-stop 1 && lab-guest wait &&
    [ "$(grep -A 1 '"flush": {' /out/$name.json | figure requests)" -gt 0 ] && clean $name && ok $name || failed $name $?
