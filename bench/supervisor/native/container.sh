# Becomes PID 1 of a container and executes COMMAND there. Run in namespaces of its own (mount, pid, net, uts, ipc) by
# bench/supervisor/container.py; sources: pivot_root(8) for the way out of the old root, and
# https://systemd.io/CONTAINER_INTERFACE/ for what PID 1 may expect to find mounted.
#
#   sh container.sh CGROUP TREE DIRECTORY COMMAND…
#
# CGROUP: a cgroup v2 directory to live in. TREE: the root ("/": the host's own files). DIRECTORY: shared with the bench; it is
# /bench in a tree and keeps its path on the host.
set -eu
cgroup=$1 tree=$2 directory=$3
shift 3
# Capabilities that no container gets (systemd-nspawn(1), --capability=): a peer must not touch the host's clock, modules,
# hardware and log.
bounding=-sys_module,-sys_rawio,-sys_time,-sys_pacct,-syslog,-wake_alarm,-block_suspend,-mac_admin,-mac_override
if [ "${stage:-}" = inside ]; then
	unset stage
	if [ "$tree" = / ]; then
		mount -t proc proc /proc
		mount -t cgroup2 cgroup2 /sys/fs/cgroup
		exec setpriv --bounding-set "$bounding" "$@"
	fi
	mount --bind "$tree" "$tree"
	cd "$tree"
	mount -t proc proc proc
	mount --bind proc/sys proc/sys
	mount -o remount,bind,ro proc/sys # the kernel's settings are the host's
	mount -t sysfs -o ro sysfs sys
	mount -t cgroup2 cgroup2 sys/fs/cgroup
	mount -t tmpfs -o mode=755 tmpfs dev
	for node in null zero full random urandom tty; do
		: >"dev/$node"
		mount --bind "/dev/$node" "dev/$node"
	done
	mkdir dev/shm dev/pts dev/mqueue
	mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
	ln -s pts/ptmx dev/ptmx
	mount -t tmpfs tmpfs dev/shm
	mount -t tmpfs -o mode=755 tmpfs run
	mount -t tmpfs -o mode=1777 tmpfs tmp
	mount -t tmpfs -o mode=755 tmpfs var/log # a journal must neither grow the tree nor be found there by the next round
	mkdir -p bench
	mount --bind "$directory" bench
	pivot_root . mnt
	exec chroot . /bin/sh -c 'umount -l /mnt && exec "$@"' sh setpriv --bounding-set "$bounding" "$@"
fi
echo 0 >"$cgroup/cgroup.procs"
stage=inside exec unshare --cgroup sh "$0" "$cgroup" "$tree" "$directory" "$@"
