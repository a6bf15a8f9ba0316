"""What CoreOS is made of. Pure data, and the only place to change it."""

INTERFACE = 1  # what the root guarantees to a layer of `base: coreos`
VERSION = "0.1.0"
SUITE = "trixie"
EPOCH = 1735689600  # 2025-01-01: the time of everything in an image, so that the same inputs give the same bytes

KERNEL = "linux-image-cloud-amd64"  # the metapackage; the kernel is the package that it depends on
PACKAGES = (
    "base-files", "btrfs-progs", "busybox", "coreutils", "crun", "cryptsetup-bin", "dash", "libc6",
    "libpython3.13-stdlib", "nftables", "python3.13-minimal", "secilc",
)  # fmt: skip

# Modules in the order in which they are needed; what they depend on is put before them.
# The initramfs has those that open the root, and loads them all before anything else runs.
BOOT_MODULES = ("virtio_blk", "dm-verity", "erofs")
# The root has the rest; the agent loads them at boot, before it gives up the right to.
ROOT_MODULES = (
    "virtio-rng", "i6300esb", "virtio_net", "loop", "overlay", "dm-crypt", "xts", "aesni-intel", "af_alg",
    "algif_skcipher", "btrfs", "nf_tables", "nft_ct", "nft_socket", "nft_reject_inet", "nft_limit", "nft_log",
    "nf_log_syslog",
)  # fmt: skip

# Entry scripts of the agent's processes in /usr/lib/milkyway (each has its own SELinux type), and their modules.
ENTRIES = {
    "init": "milkyway_agent.__main__",
    "verifier": "milkyway_agent.verifier.process",
    "uplink": "milkyway_agent.uplink.uplink",
    "front": "milkyway_agent.front.server",
    "compiler": "milkyway_agent.workers.policy_compiler",
    "disk": "milkyway_agent.workers.disk",
}

# Programs that a shell needs and coreutils lacks, all of them busybox.
APPLETS = (
    "awk", "blkid", "clear", "cmp", "diff", "dmesg", "find", "free", "grep", "gunzip", "gzip", "hexdump", "hostname",
    "ifconfig", "ip", "kill", "killall", "less", "losetup", "more", "mount", "nc", "netstat", "nslookup", "pgrep",
    "pidof", "ping", "pkill", "ps", "reset", "route", "sed", "setsid", "strings", "sysctl", "tar", "top", "udhcpc",
    "umount", "uptime", "vi", "wget", "which", "xargs",
)  # fmt: skip

DIRECTORIES = (
    "data", "dev", "etc", "proc", "root", "run", "secure-config", "sys", "tmp", "usr", "var",
)  # fmt: skip
LINKS = {
    "bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64",
    "usr/bin/python3": "python3.13", "usr/bin/sh": "dash",
    "var/run": "/run", "var/tmp": "/tmp", "etc/resolv.conf": "/run/milkyway/net/resolv.conf", "etc/mtab": "/proc/self/mounts",
}  # fmt: skip
TEXTS = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n"
    "milkyway-verifier:x:901:901::/:/usr/sbin/nologin\n"
    "milkyway-uplink:x:902:902::/:/usr/sbin/nologin\n"
    "milkyway-compiler:x:903:903::/:/usr/sbin/nologin\n"
    "milkyway-front:x:904:904::/:/usr/sbin/nologin\n"
    "nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\ntty:x:5:\n"
    "milkyway:x:900:\n"  # its members may read, restart and stop, through mwctl
    "milkyway-verifier:x:901:\nmilkyway-uplink:x:902:\nmilkyway-compiler:x:903:\nmilkyway-front:x:904:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost ip6-localhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
    "etc/os-release": f'ID=milkyway\nID_LIKE=debian\nNAME="MilkyWay CoreOS"\nVERSION_ID={VERSION}\n'
    f'PRETTY_NAME="MilkyWay CoreOS {VERSION}"\n',
    "etc/ld.so.conf": "/usr/lib/x86_64-linux-gnu\n",
}
