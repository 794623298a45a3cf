# A guest whose kernel lies on our disk: GRUB reads it through a ring, and Linux takes the same device over.
cat >/images/after-grub <<'X'
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
    rm -rf /images/tree && mkdir -p /images/tree/boot/grub /images/over/lab
    cp "$2" /images/tree/boot/kernel
    told=$(lab-guest initrd -o /images/over /images/tree/boot/initrd /images/after-grub)
    printf 'set timeout=0\nmenuentry guest {\n linux /boot/kernel %s\n initrd /boot/initrd\n}\n' "$told" >/images/tree/boot/grub/grub.cfg
    cp /images/tree/boot/grub/grub.cfg /images/over/lab/grub.cfg
    lab-guest initrd -o /images/over /images/tree/boot/initrd /images/after-grub >/dev/null
    truncate -s 220M "$1" && mkfs.ext4 -q -F -t ext2 -d /images/tree "$1" && rm -rf /images/tree
}
