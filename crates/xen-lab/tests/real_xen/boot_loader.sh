# A guest whose kernel lies on our disk: GRUB reads it through a ring, and Linux takes the same device over.
cat >/root/after-grub <<'X'
#!/bin/sh
set -ex
mkdir -p /m
mount -t ext2 /dev/xvda /m
cmp /m/boot/grub/grub.cfg /lab/grub.cfg
dd if=/dev/urandom of=/m/f bs=64k count=32 2>/dev/null
sum=$(sha256sum </m/f)
umount /m
mount -t ext2 /dev/xvda /m
[ "$(sha256sum </m/f)" = "$sum" ]
umount /m
X
# A disk that is booted from: IMAGE KERNEL
bootable() {
    rm -rf /root/tree && mkdir -p /root/tree/boot/grub /root/over/lab
    cp "$2" /root/tree/boot/kernel
    told=$(lab-guest initrd -o /root/over /root/tree/boot/initrd /root/after-grub)
    printf 'set timeout=0\nmenuentry guest {\n linux /boot/kernel %s\n initrd /boot/initrd\n}\n' "$told" >/root/tree/boot/grub/grub.cfg
    cp /root/tree/boot/grub/grub.cfg /root/over/lab/grub.cfg
    lab-guest initrd -o /root/over /root/tree/boot/initrd /root/after-grub >/dev/null
    truncate -s 220M "$1" && mkfs.ext4 -q -F -t ext2 -d /root/tree "$1" && rm -rf /root/tree
}
