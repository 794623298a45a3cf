# This GRUB is a program of 32 bits, and so is its ring; that of the Linux that it starts is not.
bootable /images/boot.img /boot/vmlinuz &&
    guest_story pvh_grub -t 600 -m 512 -k pvh -l 'tsc_mode="native"' -b /usr/lib/grub-xen/grub-i386-xen_pvh.bin \
        -d "$(disk raw xvda rw /images/boot.img)"
