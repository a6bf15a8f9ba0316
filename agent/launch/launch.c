/* launch: the last steps between PID 1 and a service of CoreOS.
 *
 *     launch [OPTION…] -- PROGRAM [ARGUMENT…]
 *
 * posix_spawn, which is all that PID 1 uses, sets neither cgroup, nor user, capabilities, limits or
 * SELinux domain. This program does, in an order of its own whatever the order of its options, and
 * executes PROGRAM (an absolute path) in its place: same process, same descriptors. A failure is one
 * line on standard error and exit code 111; nothing is ever started with less than was asked for.
 *
 *     --cgroup DIRECTORY    join the cgroup DIRECTORY
 *     --context CONTEXT     run in this SELinux context
 *     --user UID:GID        be this user and group, with no further groups
 *     --keep-caps LIST      keep these capabilities (cap_net_admin,cap_net_raw), also as an ordinary user;
 *                           all others are dropped for good, and without the option all are
 *     --no-new-privs        gain no rights by executing a file, now or later
 *     --rlimit-nofile N     open at most N descriptors
 *     --directory PATH      start there instead of /
 *     --mount-private       have a mount namespace of its own
 *     --netns-empty         have a network namespace of its own, empty
 *     --stdin-null          read nothing
 *     --terminal PATH       have this terminal as controlling terminal, input and output
 *     --env NAME=VALUE      add to the environment, which is otherwise passed on as it is
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FAILED 111

struct wanted {
	const char *cgroup, *context, *directory, *terminal;
	uid_t user;
	gid_t group;
	uint64_t capabilities;
	rlim_t descriptors;
	int namespaces;
	bool other_user, limited, no_new_privileges, stdin_null;
};

static const char *const capability_names[] = {
	"chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap",
	"linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner",
	"sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice",
	"sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap",
	"mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf",
	"checkpoint_restore",
};
#define CAPABILITIES (sizeof capability_names / sizeof *capability_names)

static _Noreturn void __attribute__((format(printf, 1, 2))) fail(const char *what, ...)
{
	va_list arguments;

	va_start(arguments, what);
	fprintf(stderr, "launch: cannot ");
	vfprintf(stderr, what, arguments);
	fprintf(stderr, "\n");
	va_end(arguments);
	_exit(FAILED);
}

/* --- the options ------------------------------------------------------------------------------------------------------ */

static unsigned long number(const char *text, const char *option)
{
	if (!*text || strlen(text) > 9 || strspn(text, "0123456789") != strlen(text))
		fail("read %s: not a number: %s", option, text);
	return strtoul(text, NULL, 10);
}

static uint64_t read_capabilities(char *list)
{
	uint64_t kept = 0;
	char *name;

	while ((name = strsep(&list, ","))) {
		size_t which = 0;

		while (which < CAPABILITIES &&
		       (strncmp(name, "cap_", 4) || strcmp(name + 4, capability_names[which])))
			which++;
		if (which == CAPABILITIES)
			fail("keep capability %s: there is none of that name", name);
		kept |= UINT64_C(1) << which;
	}
	return kept;
}

static void read_user(struct wanted *want, char *text)
{
	char *group = strchr(text, ':');

	if (!group)
		fail("read --user: not UID:GID: %s", text);
	*group++ = '\0';
	want->user = (uid_t)number(text, "--user");
	want->group = (gid_t)number(group, "--user");
	want->other_user = true;
}

static struct wanted read_options(int count, char **arguments)
{
	static const struct option options[] = {
		{ "cgroup", required_argument, NULL, 'g' },
		{ "context", required_argument, NULL, 'x' },
		{ "user", required_argument, NULL, 'u' },
		{ "keep-caps", required_argument, NULL, 'k' },
		{ "no-new-privs", no_argument, NULL, 'p' },
		{ "rlimit-nofile", required_argument, NULL, 'f' },
		{ "directory", required_argument, NULL, 'd' },
		{ "mount-private", no_argument, NULL, 'm' },
		{ "netns-empty", no_argument, NULL, 'n' },
		{ "stdin-null", no_argument, NULL, 'i' },
		{ "terminal", required_argument, NULL, 't' },
		{ "env", required_argument, NULL, 'e' },
		{ 0 },
	};
	struct wanted want = { .directory = "/" };
	int option;

	opterr = 0;
	/* "+": what follows the first word that is no option belongs to the program. */
	while ((option = getopt_long(count, arguments, "+", options, NULL)) != -1) {
		switch (option) {
		case 'g': want.cgroup = optarg; break;
		case 'x': want.context = optarg; break;
		case 'u': read_user(&want, optarg); break;
		case 'k': want.capabilities |= read_capabilities(optarg); break;
		case 'p': want.no_new_privileges = true; break;
		case 'f': want.descriptors = number(optarg, "--rlimit-nofile"); want.limited = true; break;
		case 'd': want.directory = optarg; break;
		case 'm': want.namespaces |= CLONE_NEWNS; break;
		case 'n': want.namespaces |= CLONE_NEWNET; break;
		case 'i': want.stdin_null = true; break;
		case 't': want.terminal = optarg; break;
		case 'e':
			if (!strchr(optarg, '=') || putenv(optarg))
				fail("read --env: not NAME=VALUE: %s", optarg);
			break;
		default: fail("read option %s", arguments[optind - 1]);
		}
	}
	if (optind == count || strcmp(arguments[optind - 1], "--") || arguments[optind][0] != '/')
		fail("find the program: its absolute path follows --");
	return want;
}

/* --- the steps, in the order in which they are taken ------------------------------------------------------------------- */

static void write_to(const char *path, const char *text, const char *what)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		fail("%s: %s", what, strerror(errno));
	close(fd);
}

static void join_cgroup(const char *directory)
{
	char path[4096];

	if (snprintf(path, sizeof path, "%s/cgroup.procs", directory) >= (int)sizeof path)
		fail("join the cgroup: its path is too long");
	write_to(path, "0", "join the cgroup");
}

static void use_terminal(const char *path)
{
	int fd;

	setsid(); /* PID 1 may have made the session already; only its leader gets a controlling terminal */
	fd = open(path, O_RDWR);
	if (fd < 0)
		fail("open terminal %s: %s", path, strerror(errno));
	for (int number = 0; number <= 2; number++)
		if (dup2(fd, number) < 0)
			fail("use terminal %s: %s", path, strerror(errno));
	if (fd > 2)
		close(fd);
}

static void read_nothing(void)
{
	int fd = open("/dev/null", O_RDONLY);

	if (fd < 0 || dup2(fd, 0) < 0)
		fail("open /dev/null: %s", strerror(errno));
	if (fd > 0)
		close(fd);
}

static void separate(int namespaces)
{
	if (unshare(namespaces) < 0)
		fail("make namespaces: %s", strerror(errno));
	if (namespaces & CLONE_NEWNS && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		fail("make mounts private: %s", strerror(errno));
}

/* The bounding set, while we still may shrink it. */
static void bound_capabilities(uint64_t kept)
{
	for (unsigned long which = 0; prctl(PR_CAPBSET_READ, which, 0, 0, 0) >= 0; which++)
		if (!(which < 64 && kept >> which & 1) && prctl(PR_CAPBSET_DROP, which, 0, 0, 0) < 0)
			fail("drop capability %lu: %s", which, strerror(errno));
}

static void become(const struct wanted *want)
{
	if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0 || setgroups(0, NULL) < 0 ||
	    setresgid(want->group, want->group, want->group) < 0 || setresuid(want->user, want->user, want->user) < 0)
		fail("become user %u:%u: %s", want->user, want->group, strerror(errno));
}

/* All sets but the bounding one become what is kept; the ambient set carries it over the execution. */
static void set_capabilities(uint64_t kept)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct sets[2];

	for (int half = 0; half < 2; half++) {
		uint32_t bits = (uint32_t)(kept >> 32 * half);

		sets[half] = (struct __user_cap_data_struct){ .effective = bits, .permitted = bits, .inheritable = bits };
	}
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		fail("clear ambient capabilities: %s", strerror(errno));
	if (syscall(SYS_capset, &header, sets) < 0)
		fail("set capabilities: %s", strerror(errno));
	for (unsigned long which = 0; which < CAPABILITIES; which++)
		if (kept >> which & 1 && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, which, 0, 0) < 0)
			fail("keep capability cap_%s: %s", capability_names[which], strerror(errno));
}

int main(int count, char **arguments)
{
	struct wanted want = read_options(count, arguments);

	if (want.cgroup)
		join_cgroup(want.cgroup);
	if (want.limited) {
		const struct rlimit limit = { want.descriptors, want.descriptors };

		if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
			fail("limit descriptors: %s", strerror(errno));
	}
	if (want.terminal)
		use_terminal(want.terminal);
	if (want.stdin_null)
		read_nothing();
	if (want.namespaces)
		separate(want.namespaces);
	if (chdir(want.directory) < 0)
		fail("enter %s: %s", want.directory, strerror(errno));
	bound_capabilities(want.capabilities);
	if (want.other_user)
		become(&want);
	set_capabilities(want.capabilities);
	/* Under no_new_privs SELinux changes the domain only where the policy has nnp_nosuid_transition. */
	if (want.no_new_privileges && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		fail("give up new privileges: %s", strerror(errno));
	if (want.context)
		write_to("/proc/thread-self/attr/exec", want.context, "ask for the SELinux context");
	execv(arguments[optind], arguments + optind);
	fail("execute %s: %s", arguments[optind], strerror(errno));
}
