"""Make layers: specs, composition by a package manager, images, verity trees, signatures."""
