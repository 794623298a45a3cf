# What a reader of the guide has before its first line: the source tree with what was built, a guest's kernel, systemd. It has
# no backend of ours yet.
kill $backend
while kill -0 $backend 2>/dev/null; do sleep 0.1; done
rm -f /etc/xen/scripts/block-tapdisk
mkdir -p ~/oxtap/target /boot/guest /images/over /run/guide /etc/systemd
cp -r /lab/tree/. ~/oxtap/
ln -s /lab/bin ~/oxtap/target/release
ln -s /boot/vmlinux /boot/guest/vmlinux
# The guest's system: it writes and reads for ever, and tells if something is not as it was.
cat >/images/guide-guest <<'X'
#!/bin/sh
while :; do
    dd if=/dev/urandom of=/tmp/x bs=64k count=8 2>/dev/null
    dd if=/tmp/x of=/dev/xvda bs=64k oflag=direct 2>/dev/null && dd if=/dev/xvda of=/tmp/y bs=64k count=8 iflag=direct 2>/dev/null &&
        cmp /tmp/x /tmp/y || xenstore-write data/guide-failed 1
    dd if=/dev/xvdb of=/dev/null bs=64k count=1 iflag=direct 2>/dev/null || xenstore-write data/guide-failed 1
    xenstore-write data/guide-round 1
    sleep 0.2
done
X
sed 's/^role=dom0$/role=guest/' /init >/images/over/init
chmod 755 /images/over/init
lab-guest initrd -o /images/over /boot/guest/initrd /images/guide-guest >/dev/null
rm -rf /images/over
# As much of systemd as starts and ends a daemon that is described by a unit and what is laid over it.
cat >/usr/bin/systemctl <<'X'
#!/bin/bash
verb=$1
for unit; do :; done
file=/usr/lib/systemd/system/$unit.service
value() { cat $file /etc/systemd/system/$unit.service.d/*.conf 2>/dev/null | sed -n "s/^$1=\(..*\)/\1/p" | tail -n 1; }
stop() {
    pid=$(cat "$(value PIDFile)" 2>/dev/null) || return 0
    kill $pid
    while kill -0 $pid 2>/dev/null; do sleep 0.1; done
}
case $verb in
daemon-reload) ;;
enable | start) [ -e $file ] && $(value ExecStart) ;;
restart) stop && $(value ExecStart) ;;
disable | stop) stop ;;
*) exit 1 ;;
esac
X
chmod 755 /usr/bin/systemctl

guide_failed=''
guide_file() { mkdir -p "${1%/*}" && cat >"$1"; }
# A person looks at what has come of a command before the next one: guests are up, and all that is attached is connected.
guide_pause() {
    for look in $(seq 240); do
        waiting=''
        for state in $(xenstore-ls -f /local/domain/0/backend 2>/dev/null | sed -n 's,^\(.*/vbd3\{0\,1\}/[0-9]*/[0-9]*/state\) = .*,\1,p'); do
            [ "$(xenstore-read "$state" 2>/dev/null)" = 4 ] || waiting=$state
        done
        domain=$(xl domid guest 2>/dev/null)
        [ -z "$domain" ] || xenstore-read /local/domain/$domain/data/guide-round >/dev/null 2>&1 || waiting=guest
        [ -n "$waiting" ] || return 0
        sleep 0.25
    done
    echo "$waiting does not come up"
    return 1
}
guide_step() { # LINE: runs what is on stdin
    cat >/run/guide/step
    [ -z "$guide_failed" ] || return
    (cd && PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin bash -ex /run/guide/step) && guide_pause || {
        guide_failed=1
        failed guide "docs/xen.md, from line $1 on"
    }
    domain=$(xl domid guest 2>/dev/null)
    [ -z "$domain" ] || ! xenstore-read /local/domain/$domain/data/guide-failed >/dev/null 2>&1 ||
        failed guide "docs/xen.md, from line $1 on: the guest has lost something"
}
guide_end() {
    left=$(tap-ctl list; pidof tapdisk; xenstore-ls /local/domain/0/backend 2>/dev/null; xl list | grep -F '(null)'; pidof tapback)
    if [ -n "$left" ]; then failed guide "left: $left"; elif [ -z "$guide_failed" ]; then ok guide; fi
    over
}
