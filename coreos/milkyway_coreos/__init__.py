"""Make CoreOS: root, initramfs, kernel, base SELinux policy, disk image; run it in a virtual machine."""
