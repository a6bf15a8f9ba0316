"""Which files of the packages go into the root. Pure.

Everything that a server never runs is left out: package management, documentation, message
catalogues, build and test parts of Python, duplicate tools. What the shell, the agent and a
layer of ``base: coreos`` use is kept.
"""

import re

DROPPED_TREES = (
    "boot", "dev", "home", "media", "mnt", "opt", "proc", "root", "run", "srv", "sys", "tmp", "var",
    "etc/alternatives", "etc/apt", "etc/cron.daily", "etc/debconf.conf", "etc/default", "etc/dpkg", "etc/fstab",
    "etc/hostname", "etc/init.d", "etc/initramfs-tools", "etc/issue", "etc/issue.net", "etc/kernel",
    "etc/ld.so.conf.d", "etc/logrotate.d", "etc/mime.types", "etc/nftables.conf", "etc/opt", "etc/os-release",
    "etc/profile.d", "etc/python3.13", "etc/resolv.conf", "etc/rmt", "etc/skel", "etc/terminfo", "etc/tmpfiles.d",
    "etc/update-motd.d", "etc/xattr.conf", "etc/host.conf", "etc/debian_version", "usr/games", "usr/include",
    "usr/local", "usr/src", "usr/lib/dpkg", "usr/lib/apt", "usr/lib/debug", "usr/lib/init", "usr/lib/kernel",
    "usr/lib/initramfs-tools", "usr/lib/locale", "usr/lib/mime", "usr/lib/os-release", "usr/lib/pcrlock.d",
    "usr/lib/systemd", "usr/lib/sysusers.d", "usr/lib/terminfo", "usr/lib/tmpfiles.d", "usr/lib/tar", "usr/lib/udev",
    "usr/libexec", "usr/lib/x86_64-linux-gnu/gconv", "usr/lib/x86_64-linux-gnu/perl-base",
    "usr/lib/x86_64-linux-gnu/security", "usr/lib/x86_64-linux-gnu/audit", "usr/lib/x86_64-linux-gnu/engines-3",
)  # fmt: skip
KEPT_OF_SHARE = ("usr/share/zoneinfo/UTC", "usr/share/zoneinfo/Etc/UTC")
DROPPED_FILES = re.compile(
    r"usr/s?bin/(?:dpkg.*|apt.*|deb.*|update-.*|add-shell|remove-shell|installkernel|c_rehash|openssl|perl.*|mawk|tar|rmt.*"
    r"|tarcat|dmsetup|busctl|savelog|tempfile|which.*|run-parts|ischroot|start-stop-daemon|select-editor|sensible-.*|py3.*|pydoc.*"
    r"|btrfs-.*|btrfstune|btrfsck|fsck.btrfs|integritysetup|blkdeactivate|dmstats|secil2.*|iconv|ldd|zdump|tzselect|pcre.*"
    r"|getent|getconf|gencat|localedef|locale|iconvconfig|zic|ld.so|chcon|runcon|crun-wasm|ptx|pinky|sum|tsort|factor|stdbuf|pr|fmt|vdir|dir|dircolors)"
    r"|usr/lib/x86_64-linux-gnu/(?:libstdc\+\+.*|libperl.*|libapt-.*|libgcc_s.*-gdb.*|libmvec.*|libnss_(?:compat|hesiod).*"
    r"|libnsl.*|libthread_db.*|libpcprofile.*|libmemusage.*|libSegFault.*|libBrokenLocale.*|libc_malloc_debug.*|libdb-.*|libnss_nis.*"
    r"|libpam.*|libaudit.*|libsqlite3.*|libext2fs.*|libe2p.*|libcom_err.*|libreiserfscore.*|libreadline.*|libhistory.*|libncurses.*|libpanel.*|libmenu.*|libform.*|libexpatw.*|libdebconfclient.*|.*\.(?:a|la))"
)
PYTHON = "usr/lib/python3.13/"
DROPPED_OF_PYTHON = re.compile(
    r"(?:ensurepip|idlelib|tkinter|turtledemo|turtle\.py|lib2to3|pydoc_data|pydoc\.py|test|unittest|distutils|doctest\.py|venv|dbm|sqlite3"
    r"|wsgiref|xmlrpc|curses|_pyrepl|this\.py|antigravity\.py|pdb\.py|bdb\.py|cProfile\.py|profile\.py|pstats\.py|trace\.py|tracemalloc_tools"
    r"|ftplib\.py|imaplib\.py|poplib\.py|smtplib\.py|mailbox\.py|nntplib\.py|telnetlib\.py|webbrowser\.py|zipapp\.py|config-.*|EXTERNALLY-MANAGED"
    r"|_sysconfigdata__.*|pickletools\.py|tabnanny\.py|timeit\.py|xml"
    r"|lib-dynload/(?:_tkinter|_curses.*|_dbm|_gdbm|_sqlite3|_test.*|_xx.*|xx.*|readline|_codecs_(?:cn|hk|iso2022|jp|kr|tw)|_ctypes_test|nis|ossaudiodev"
    r"|_crypt)\..*)(?:/.*)?$"
)  # fmt: skip


def is_kept(path: str) -> bool:
    """Tell whether *path*, relative to the root and not a directory, goes into the root."""
    if path in KEPT_OF_SHARE:
        return True
    if path.startswith("usr/share/") or _below(path, DROPPED_TREES):
        return False
    if path.startswith(PYTHON):
        return "/__pycache__/" not in path and not DROPPED_OF_PYTHON.match(path.removeprefix(PYTHON))
    return not DROPPED_FILES.fullmatch(path)


def _below(path: str, trees: tuple[str, ...]) -> bool:
    return any(path == tree or path.startswith(f"{tree}/") for tree in trees)
