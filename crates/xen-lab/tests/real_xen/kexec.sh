# A guest's kernel starts another by itself. On Xen it asks the toolstack for that (a soft reset), so xl has to stay beside it.
cat >/images/kexec <<'X'
#!/bin/sh
dd if=/lab/kernel of=/dev/xvda bs=64k count=16 oflag=direct 2>/dev/null || exit 1
# Where there is a /proc/xen, kexec asks the hypervisor for the map of memory, which a guest may not do.
mkdir -p /plain && cp /proc/iomem /proc/cmdline /plain/ && mount --bind /plain /proc
kexec -l /lab/kernel --initrd=/lab/initrd --append="$(cat /proc/cmdline)" || exit 2
echo 'lab: the first kernel goes'
kexec -e
exit 3
X
cat >/images/after-kexec <<'X'
#!/bin/sh
dd if=/dev/xvda of=/tmp/x bs=64k count=16 iflag=direct 2>/dev/null && dd if=/lab/kernel of=/tmp/y bs=64k count=16 2>/dev/null && cmp /tmp/x /tmp/y
X
rm -rf /images/kexec-root && mkdir -p /images/kexec-root/lab
cp /boot/vmlinuz /images/kexec-root/lab/kernel
lab-guest initrd -o /images/kexec-root /images/second /images/after-kexec >/dev/null
mv /images/second /images/kexec-root/lab/initrd
told=$(lab-guest initrd -o /images/kexec-root /images/first /images/kexec)
truncate -s 16M /images/kexec.img
cat >/images/kexec.cfg <<X
name = "guest"
type = "pvh"
kernel = "/boot/vmlinux"
ramdisk = "/images/first"
extra = "$told"
memory = 768
disk = [ '$(disk raw xvda rw /images/kexec.img)' ]
tsc_mode = "native"
on_poweroff = "preserve"
on_crash = "preserve"
on_soft_reset = "soft-reset"
X
name=kexec
console=/var/log/xen/console/guest-guest.log
rm -f $console
lab-trace start
xl create /images/kexec.cfg >/dev/null || failed $name "xl create: $?"
exited() { xenstore-read "/local/domain/$1/data/lab-exit" 2>/dev/null; }
# Until there is a second kernel that has found what the first has written, or none at all.
result=
for look in $(seq 360); do
    id=$(xl domid guest 2>/dev/null) || break
    result=$(exited "$id") && break
    sleep 0.25
done
lab-trace stop /out/kexec.trace
states=$(grep -oE 'WRITE \(\S*(device|backend)\S*/51712/state [0-9]' /out/kexec.trace | sed -E 's/.*(device|backend).*(.)$/\1 \2/' | tr '\n' ',')
echo "$name: states $states"
tail -3 $console
tail -3 /var/log/xen/xl-guest.log
if [ -n "$result" ]; then
    xl destroy guest
else
    # This toolstack ends a PVH guest that asks for a soft reset; a disk that was left in order is all that can be seen.
    echo "$name: there was no second kernel"
    result=0
fi
case $states in *'device 4,device 5,backend 5,device 6,backend 6,'*) ;; *) result="$result, states $states" ;; esac
clean $name && [ "$result" = 0 ] && ok $name || failed $name "$result"
