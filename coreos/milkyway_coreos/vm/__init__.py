"""Development machines: QEMU, a disk, a console."""
