# The tapdisk of a guest is killed under load. Linux never ends by itself what it has asked of a disk, whatever is told of it.

# More requests than the ring holds, until they fail: DISK
cat >/images/until-it-fails <<'GUEST'
#!/bin/sh
until [ -e /dev/$1 ]; do sleep 0.2; done
lab-load /dev/$1 --depth 48 --to-failure >/tmp/told || exit $?
cat /tmp/told
# Nor does it wait for what it asks later: the disk is empty by now.
dd if=/dev/$1 of=/dev/null bs=4k count=1 iflag=direct
longest=$(sed -n 's/.*longest_ms=\([0-9]*\).*/\1/p' /tmp/told)
[ "$longest" -lt 30000 ] || exit 5
GUEST

name=tapdisk_killed_under_load
lab-guest start -d "$(disk vhd xvda rw /images/a.vhd)" /images/until-it-fails xvda >/dev/null && busy /images/a.vhd &&
    kill -9 "$(pidof tapdisk)" && lab-guest wait && clean $name && ok $name || failed $name $?
cat /var/log/xen/console/guest-guest.log >>/out/killed-under-load.log

name=tapdisk_killed_and_replaced
kill $backend
sleep 1
start_backend --on-death restart
sleep 1
remember
lab-guest start -d "$(disk vhd xvda rw /images/a.vhd)" /images/work xvda --depth 48 >/dev/null && busy /images/a.vhd
well=yes
for time in 1 2 3; do
    killed=$(pidof tapdisk)
    kill -9 "$killed"
    for look in $(seq 120); do
        [ "$(pidof tapdisk)" != "$killed" ] && pidof tapdisk >/dev/null && break
        sleep 0.25
    done
    busy /images/a.vhd || well="no, after kill $time"
done
repeated=$(cat /var/log/blktap/*.log | grep -c 'requests are repeated')
[ "$repeated" -gt 0 ] || well="no, nothing was under way"
tell lab-stop 1 && lab-guest wait && clean $name && [ "$well" = yes ] && ok $name || failed $name "$well"
