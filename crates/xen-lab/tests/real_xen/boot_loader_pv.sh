# GRUB's loader of PV kernels unpacks none, so the kernel is the ELF file.
bootable /images/boot.img /boot/vmlinux &&
    guest_story pv_grub -t 600 -m 512 -b /usr/lib/grub-xen/grub-x86_64-xen.bin -d "$(disk raw xvda rw /images/boot.img)"
