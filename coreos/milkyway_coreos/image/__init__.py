"""Make the images that servers boot: root, initramfs, kernel, base policy."""
