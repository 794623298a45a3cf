# A guest's disks from their coming to their end, by the stock toolstack.
cat >/images/file-system <<'GUEST'
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
GUEST
# A disc is not to be written, and can be taken out. SUM
cat >/images/read-only <<'GUEST'
#!/bin/sh
[ "$(cat /sys/block/xvda/ro)" = 1 ] && dd if=/dev/xvda of=/dev/null bs=1M count=4 iflag=direct || exit 2
if dd if=/dev/zero of=/dev/xvda bs=4k count=1 oflag=direct; then exit 3; fi
[ "$(cat /sys/block/xvdb/ro /sys/block/xvdb/removable | tr '\n' ' ')" = '1 1 ' ] || exit 4
[ "$(xenstore-read device/vbd/51728/device-type)" = cdrom ] || exit 5
[ "$(dd if=/dev/xvdb bs=64k iflag=direct | sha256sum)" = "$1  -" ] || exit 6
GUEST

guest_story file_system -d "$(disk vhd xvda rw /images/a.vhd)" /images/file-system

dd if=/dev/urandom of=/images/disc.iso bs=1M count=8 2>/dev/null
sum=$(sha256sum </images/disc.iso)
guest_story read_only -d "$(disk vhd xvda ro /images/a.vhd)" -d "devtype=cdrom,$(disk raw xvdb ro /images/disc.iso)" \
    /images/read-only "${sum% *}"

name=destroy_under_load
lab-guest start -d "$(disk vhd xvda rw /images/a.vhd)" /images/work xvda --depth 16 >/dev/null && busy /images/a.vhd &&
    xl destroy guest && clean $name && ok $name || failed $name $?

name=two_guests
lab-guest start -d "$(disk vhd xvda rw /images/a.vhd)" /images/work xvda >/dev/null
lab-guest start -n other -d "$(disk raw xvda rw /images/r.img)" /images/work xvda >/dev/null
busy /images/a.vhd && busy /images/r.img && xl destroy guest && tell lab-stop 1 other &&
    lab-guest wait -n other && clean $name && ok $name || failed $name $?

name=backend_killed_under_load
lab-guest start -d "$(disk vhd xvda rw /images/a.vhd)" /images/work xvda >/dev/null && busy /images/a.vhd
kill -9 $backend
sleep 1
start_backend
sleep 1
tell lab-stop 1 && lab-guest wait && clean $name && ok $name || failed $name $?

name=save_and_restore
lab-guest start -m 128 -d "$(disk vhd xvda rw /images/a.vhd)" /images/work xvda >/dev/null && busy /images/a.vhd
xl save guest /images/saved && clean "$name, saved" && xl restore -e /images/saved &&
    xl domid guest >/run/lab-guest/guest/domain && busy /images/a.vhd && tell lab-stop 1 && lab-guest wait &&
    clean $name && ok $name || failed $name $?
rm -f /images/saved

name=pause_and_unpause
lab-guest start -d "$(disk vhd xvda rw /images/a.vhd)" /images/work xvda >/dev/null && busy /images/a.vhd
# What it has asked for is answered while it stands still; then nothing moves.
xl pause guest && sleep 1 && before=$(stats /images/a.vhd | figure kicks_in) && sleep 1 &&
    [ "$(stats /images/a.vhd | figure kicks_in)" = "$before" ] && xl unpause guest && sleep 1 &&
    [ "$(stats /images/a.vhd | figure kicks_in)" -gt "$before" ] && tell lab-stop 1 && lab-guest wait &&
    clean $name && ok $name || failed $name $?
