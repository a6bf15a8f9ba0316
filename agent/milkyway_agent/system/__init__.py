"""Kernel calls: one facility per module, under the kernel's names, without decisions."""
