/* The initramfs: from the kernel's hands to PID 1 on a verified root.
 *
 * It loads the modules in it, opens the partition coreos-<slot> with dm-verity under the root hash
 * of the command line, mounts it, loads the SELinux policy on it, and executes PID 1 there with an
 * empty environment, enforcing. Nothing that the root hash does not cover is read as code or
 * policy. The first check that fails stops the boot with one line on the console,
 *
 *     milkyway: boot stopped: <check>: <why>
 *
 * and after panic= seconds the machine is reset. Of the kernel's command line it reads only panic=
 * and milkyway.*; it refuses a milkyway parameter that it does not know.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <linux/netlink.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#define NEW_ROOT "/root"
#define PID1 "/usr/lib/milkyway/init"
#define POLICY NEW_ROOT "/usr/lib/milkyway/policy/base.policy"
#define DEVICE_NAME "coreos"
#define HASH_HEX 64
#define MAX_POLICY_BYTES (16 << 20)
#define PARTITION_DEADLINE_S 15
#define VERITY_BLOCK 4096
#define SECTOR 512

struct parameters {
	char slot[2];
	char root_hash[HASH_HEX + 1];
	char salt[HASH_HEX + 1];
	uint64_t blocks;
};

static unsigned panic_s = 10;

/* Say which check failed and why, then reset the machine. */
static _Noreturn void __attribute__((format(printf, 2, 3))) stop(const char *check, const char *why, ...)
{
	va_list arguments;

	va_start(arguments, why);
	printf("milkyway: boot stopped: %s: ", check);
	vprintf(why, arguments);
	printf("\n");
	fflush(stdout);
	va_end(arguments);
	sync();
	sleep(panic_s);
	reboot(RB_AUTOBOOT);
	for (;;)
		pause();
}

static double uptime(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void mount_at(const char *source, const char *target, const char *type, unsigned long flags)
{
	mkdir(target, 0755);
	if (mount(source, target, type, flags, NULL) < 0)
		stop("mounts", "cannot mount %s on %s: %s", source, target, strerror(errno));
}

static void use_console(void)
{
	int console = open("/dev/console", O_RDWR | O_NOCTTY | O_CLOEXEC);

	if (console < 0)
		return; /* a machine without a console boots in silence */
	for (int fd = 0; fd <= 2; fd++)
		dup2(console, fd);
	if (console > 2)
		close(console);
}

/* Read the file *path*, which must be shorter than *size*, as text. Return its length, or -1 with errno. */
static ssize_t read_text(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got, length = 0;

	if (fd < 0)
		return -1;
	while ((got = read(fd, text + length, size - 1 - (size_t)length)) > 0)
		length += got;
	close(fd);
	if (got < 0)
		return -1;
	if ((size_t)length == size - 1) {
		errno = EFBIG;
		return -1;
	}
	text[length] = '\0';
	return length;
}

/* --- the command line ------------------------------------------------------------------------------------------------ */

static void take_hash(const char *name, const char *value, char *into)
{
	if (strlen(value) != HASH_HEX || strspn(value, "0123456789abcdef") != HASH_HEX)
		stop("command line", "milkyway.%s is not %d lowercase hexadecimal digits", name, HASH_HEX);
	memcpy(into, value, HASH_HEX + 1);
}

static uint64_t number(const char *name, const char *value, uint64_t most)
{
	size_t length = strlen(value);
	uint64_t result = 0;

	if (length == 0 || length > 15 || strspn(value, "0123456789") != length)
		stop("command line", "%s is not a number", name);
	result = strtoull(value, NULL, 10);
	if (result > most)
		stop("command line", "%s is above %llu", name, (unsigned long long)most);
	return result;
}

/* Read one milkyway.* parameter; each may be given once. */
static void take(struct parameters *given, const char *name, const char *value)
{
	static const char *const known[] = { "slot", "roothash", "salt", "blocks", "development" };
	static bool seen[sizeof known / sizeof *known];
	size_t which = 0;

	while (which < sizeof known / sizeof *known && strcmp(name, known[which]))
		which++;
	if (which == sizeof known / sizeof *known)
		stop("command line", "milkyway.%s is not a parameter", name);
	if (seen[which])
		stop("command line", "milkyway.%s is given twice", name);
	seen[which] = true;

	switch (which) {
	case 0:
		if (strcmp(value, "a") && strcmp(value, "b"))
			stop("command line", "milkyway.slot is neither a nor b");
		memcpy(given->slot, value, 2);
		break;
	case 1:
		take_hash(name, value, given->root_hash);
		break;
	case 2:
		take_hash(name, value, given->salt);
		break;
	case 3:
		given->blocks = number(name, value, UINT64_C(1) << 31);
		break;
	case 4:
		if (strcmp(value, "1"))
			stop("command line", "milkyway.development is 1 or absent");
		break;
	}
}

static struct parameters read_command_line(void)
{
	struct parameters given = { 0 };
	char line[4096], *rest = line, *word;

	if (read_text("/proc/cmdline", line, sizeof line) < 0)
		stop("command line", "cannot read it: %s", strerror(errno));
	while ((word = strsep(&rest, " \n"))) {
		char *value = strchr(word, '=');

		if (value)
			*value++ = '\0';
		if (!strcmp(word, "panic") && value)
			panic_s = (unsigned)number("panic", value, 3600);
		if (strncmp(word, "milkyway.", strlen("milkyway.")))
			continue;
		take(&given, word + strlen("milkyway."), value ? value : "");
	}
	if (!given.slot[0] || !given.root_hash[0] || !given.salt[0] || !given.blocks)
		stop("command line", "milkyway.slot, .roothash, .salt and .blocks must all be given");
	return given;
}

/* --- modules ---------------------------------------------------------------------------------------------------------- */

/* Load the modules that /modules names, in that order, and free the memory that the files take. */
static void load_modules(void)
{
	char list[4096], *rest = list, *path;

	if (read_text("/modules", list, sizeof list) < 0)
		stop("modules", "cannot read /modules: %s", strerror(errno));
	while ((path = strsep(&rest, "\n"))) {
		int fd;

		if (!*path)
			continue;
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			stop("modules", "cannot open %s: %s", path, strerror(errno));
		if (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST)
			stop("modules", "cannot load %s: %s", path, strerror(errno));
		close(fd);
		unlink(path);
	}
}

/* --- the partition ---------------------------------------------------------------------------------------------------- */

/* Tell whether the uevent text at *path* is that of the partition *name*; if so, write "major:minor" to *device*. */
static bool is_partition(const char *path, const char *name, char *device, size_t size)
{
	char text[1024], *rest = text, *line;
	unsigned found_major = 0, found_minor = 0;
	bool named = false;

	if (read_text(path, text, sizeof text) < 0)
		return false; /* it went away meanwhile */
	while ((line = strsep(&rest, "\n"))) {
		sscanf(line, "MAJOR=%u", &found_major);
		sscanf(line, "MINOR=%u", &found_minor);
		if (!strncmp(line, "PARTNAME=", strlen("PARTNAME=")))
			named = !strcmp(line + strlen("PARTNAME="), name);
	}
	if (named)
		snprintf(device, size, "%u:%u", found_major, found_minor);
	return named;
}

static bool look_for_partition(const char *name, char *device, size_t size)
{
	DIR *blocks = opendir("/sys/class/block");
	struct dirent *entry;
	unsigned found = 0;

	if (!blocks)
		stop("partition", "cannot read /sys/class/block: %s", strerror(errno));
	while ((entry = readdir(blocks))) {
		char path[512];

		snprintf(path, sizeof path, "/sys/class/block/%s/uevent", entry->d_name);
		if (entry->d_name[0] != '.' && is_partition(path, name, device, size))
			found++;
	}
	closedir(blocks);
	if (found > 1)
		stop("partition", "%u partitions are called %s", found, name);
	return found == 1;
}

/* Write the device of the partition *name* to *device*, waiting for the kernel to find its disk. */
static void find_partition(const char *name, char *device, size_t size)
{
	struct sockaddr_nl uevents = { .nl_family = AF_NETLINK, .nl_groups = 1 };
	int listener = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT);
	double deadline = uptime() + PARTITION_DEADLINE_S;

	/* Listen first, then search: what appears in between is not missed. */
	if (listener < 0 || bind(listener, (struct sockaddr *)&uevents, sizeof uevents) < 0)
		stop("partition", "cannot listen for devices: %s", strerror(errno));
	while (!look_for_partition(name, device, size)) {
		struct pollfd waiting = { .fd = listener, .events = POLLIN };
		double left = deadline - uptime();
		char event[4096];

		if (left <= 0)
			stop("partition", "none is called %s", name);
		poll(&waiting, 1, (int)(left * 1000) + 1);
		while (recv(listener, event, sizeof event, 0) > 0)
			; /* that something happened is enough: the next search sees it */
	}
	close(listener);
}

/* --- dm-verity -------------------------------------------------------------------------------------------------------- */

/* One device-mapper call on the device DEVICE_NAME, with the target *table* when there is one. Return its device number. */
static dev_t device_mapper(int control, unsigned long call, const char *what, uint64_t sectors, const char *table)
{
	union {
		struct dm_ioctl head;
		char bytes[4096];
	} message = { .head = {
		.version = { DM_VERSION_MAJOR, 0, 0 },
		.data_size = sizeof message,
		.data_start = sizeof message.head,
		.name = DEVICE_NAME,
		.flags = table ? DM_READONLY_FLAG : 0,
		.target_count = table ? 1 : 0,
	} };

	if (table) {
		struct dm_target_spec *target = (void *)(message.bytes + sizeof message.head);

		target->length = sectors;
		target->next = (uint32_t)(sizeof *target + ((strlen(table) + 8) & ~7UL));
		strcpy(target->target_type, "verity");
		strcpy((char *)(target + 1), table);
	}
	if (ioctl(control, (int)call, &message) < 0)
		stop("dm-verity", "cannot %s the device: %s", what, strerror(errno));
	return (dev_t)message.head.dev;
}

/* Open *device* with dm-verity and write the path of the verified device to *path*. */
static void open_verity(const struct parameters *given, const char *device, char *path, size_t size)
{
	unsigned long long blocks = given->blocks;
	char table[1024];
	dev_t verified;
	int control;

	control = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);
	if (control < 0)
		stop("dm-verity", "cannot open /dev/mapper/control: %s", strerror(errno));
	/* The hash tree follows the data directly, without a superblock: it begins at block <blocks>. */
	snprintf(table, sizeof table, "1 %s %s %d %d %llu %llu sha256 %s %s", device, device, VERITY_BLOCK, VERITY_BLOCK,
		 blocks, blocks, given->root_hash, given->salt);
	device_mapper(control, DM_DEV_CREATE, "create", 0, NULL);
	device_mapper(control, DM_TABLE_LOAD, "set up", blocks * (VERITY_BLOCK / SECTOR), table);
	verified = device_mapper(control, DM_DEV_SUSPEND, "resume", 0, NULL); /* without DM_SUSPEND_FLAG: resume */
	close(control);
	snprintf(path, size, "/dev/dm-%u", minor(verified));
}

/* Read the first block, which the root hash covers through every level of the hash tree. */
static void check_root_hash(const char *path)
{
	static char block[VERITY_BLOCK];
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		stop("dm-verity", "cannot open %s: %s", path, strerror(errno));
	if (read(fd, block, sizeof block) != sizeof block)
		stop("dm-verity", "the root image does not match milkyway.roothash: %s", strerror(errno));
	close(fd);
}

/* --- SELinux ---------------------------------------------------------------------------------------------------------- */

/* Load the policy from the verified root. Return a descriptor that takes "1" to enforce it. */
static int load_policy(void)
{
	struct stat policy_stat;
	char *policy;
	int fd, load, enforce;

	if (mount("selinuxfs", "/sys/fs/selinux", "selinuxfs", MS_NOSUID | MS_NOEXEC, NULL) < 0)
		stop("SELinux", "the kernel runs without it (security=selinux is missing?): %s", strerror(errno));
	fd = open(POLICY, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &policy_stat) < 0)
		stop("SELinux", "cannot open the policy: %s", strerror(errno));
	if (policy_stat.st_size <= 0 || policy_stat.st_size > MAX_POLICY_BYTES)
		stop("SELinux", "the policy has an impossible size");
	policy = malloc((size_t)policy_stat.st_size);
	if (!policy || read(fd, policy, (size_t)policy_stat.st_size) != policy_stat.st_size)
		stop("SELinux", "cannot read the policy: %s", strerror(errno));
	close(fd);
	load = open("/sys/fs/selinux/load", O_WRONLY | O_CLOEXEC);
	if (load < 0 || write(load, policy, (size_t)policy_stat.st_size) != policy_stat.st_size)
		stop("SELinux", "cannot load the policy: %s", strerror(errno));
	close(load);
	free(policy);
	enforce = open("/sys/fs/selinux/enforce", O_WRONLY | O_CLOEXEC);
	if (enforce < 0)
		stop("SELinux", "cannot open the switch to enforcing: %s", strerror(errno));
	return enforce;
}

/* --- the new root ----------------------------------------------------------------------------------------------------- */

/* Make the verified root the root, with /dev moved there; PID 1 mounts the rest. */
static void enter_root(void)
{
	umount2("/sys/fs/selinux", MNT_DETACH);
	umount2("/sys", MNT_DETACH);
	umount2("/proc", MNT_DETACH);
	unlink("/init");
	unlink("/modules");
	if (mount("/dev", NEW_ROOT "/dev", NULL, MS_MOVE, NULL) < 0)
		stop("root", "cannot move /dev: %s", strerror(errno));
	if (chdir(NEW_ROOT) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0)
		stop("root", "cannot enter it: %s", strerror(errno));
	/* The kernel started us with its threads' root and directory as ours (CLONE_FS). They have moved along; from
	 * here on they are separate, or SELinux would refuse the change of domain to a process that shares them. */
	if (unshare(CLONE_FS) < 0)
		stop("root", "cannot part with the kernel's threads: %s", strerror(errno));
}

int main(void)
{
	char partition[32], device[32], verified[64];
	char *const arguments[] = { PID1, NULL };
	char *const environment[] = { NULL };
	struct parameters given;
	int enforce;

	mount_at("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC);
	mount_at("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC);
	mount_at("devtmpfs", "/dev", "devtmpfs", MS_NOSUID | MS_NOEXEC);
	use_console();
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("milkyway: initramfs at %.2f s\n", uptime());
	given = read_command_line();

	load_modules();
	snprintf(partition, sizeof partition, "coreos-%s", given.slot);
	find_partition(partition, device, sizeof device);
	open_verity(&given, device, verified, sizeof verified);
	check_root_hash(verified);
	mkdir(NEW_ROOT, 0755);
	if (mount(verified, NEW_ROOT, "erofs", MS_RDONLY, NULL) < 0)
		stop("root", "cannot mount %s: %s", partition, strerror(errno));

	enforce = load_policy();
	enter_root();
	use_console();
	printf("milkyway: root verified, policy loaded, starting PID 1 at %.2f s\n", uptime());
	/* Last, so that the kernel's domain needs no right to do any of the above. */
	if (write(enforce, "1", 1) != 1)
		stop("SELinux", "cannot enforce the policy: %s", strerror(errno));
	execve(PID1, arguments, environment);
	stop("PID 1", "cannot execute %s: %s", PID1, strerror(errno));
}
