/* launch: the last steps between PID 1 and a service.
 *
 *     launch [OPTION…] -- PROGRAM [ARGUMENT…]
 *     launch --serve FD
 *
 * posix_spawn, which is all that Python has, sets no cgroup, user, capabilities or SELinux domain. This program takes the
 * steps of its table that the options name, in the table's order, and then executes PROGRAM (an absolute path) in its place.
 * A failure is one line on standard error and exit code 111; PROGRAM is never started with less than was asked for.
 *
 * With --serve, each message on the SOCK_SEQPACKET socket FD is one such start, until the socket closes: its number, how
 * many descriptors come with it, their numbers in the child (uint32_t each); then the arguments as above, each ended by NUL.
 * PROGRAM is a child of our parent, in a session of its own, in its cgroup from birth, with our environment, signal
 * dispositions and, unless given others, descriptors 0 to 2; it has no other descriptor. The answer: number, pid, errno
 * (0: it executes PROGRAM), what failed. Only our parent reaps it, even if it failed. A start that hangs delays the next.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LENGTH(array) (sizeof(array) / sizeof *(array))
enum { FAILED = 111, MOST_WORDS = 2048, MOST_BYTES = 1 << 18, MOST_DESCRIPTORS = 253, MOST_GROUPS = 256 };
enum { SOCKET = 3, MOVED = 256 }; /* all above the server's socket belong to the current request; a child has none from MOVED on */

static const char *const limits[RLIM_NLIMITS] = {
	[RLIMIT_AS] = "as", [RLIMIT_CORE] = "core", [RLIMIT_CPU] = "cpu", [RLIMIT_DATA] = "data", [RLIMIT_FSIZE] = "fsize",
	[RLIMIT_MEMLOCK] = "memlock", [RLIMIT_MSGQUEUE] = "msgqueue", [RLIMIT_NICE] = "nice", [RLIMIT_NOFILE] = "nofile",
	[RLIMIT_NPROC] = "nproc", [RLIMIT_RTPRIO] = "rtprio", [RLIMIT_STACK] = "stack" };

/* Until it executes, a child runs in the memory of the server, which waits: the server reads what the child writes here. */
static enum { ALONE, SERVING, CHILD } role;
static cpu_set_t everywhere;
static jmp_buf give_answer;
static struct { uint32_t number; int32_t pid, error; char why[1024]; } answer;
static struct request {
	char **command, *cgroup;
	size_t given_count, descriptor_count;
	uint64_t capabilities;
	struct sock_fprog filter;
	int pid_namespace;
	bool born_in_cgroup, no_new_privileges;
	char *words[MOST_WORDS + 1], *environment[MOST_WORDS + 1]; /* from here on not cleared for the next request */
	struct { const struct step *step; char *argument; } given[MOST_WORDS];
	int descriptors[MOST_DESCRIPTORS];
	uint32_t targets[MOST_DESCRIPTORS];
} start;

static _Noreturn void __attribute__((format(printf, 1, 2))) fail(const char *what, ...)
{
	va_list arguments;
	answer.error = errno = errno ? errno : EINVAL;
	va_start(arguments, what);
	vsnprintf(answer.why, sizeof answer.why, what, arguments);
	va_end(arguments);
	if (role == SERVING)
		longjmp(give_answer, 1);
	if (role == ALONE)
		fprintf(stderr, "launch: cannot %s\n", answer.why);
	_exit(FAILED);
}

static long need(long result, const char *what, const char *which)
{
	if (result < 0)
		fail("%s %s: %m", what, which);
	return result;
}

static long long number(const char *text, long long least, long long most) /* octal with a leading 0 */
{
	char *end;
	long long value = strtoll(text, &end, 0);
	if (end == text || *end || value < least || value > most)
		fail("read %s: not a number from %lld to %lld", text, least, most);
	return value;
}

static char *cut(char *text, int at) /* cut "NAME=VALUE" in two; return VALUE */
{
	char *value = strchr(text, at);
	if (!value || value == text)
		fail("read %s: there is no name before a %c", text, at);
	*value = '\0';
	return value + 1;
}

static void write_to(const char *path, const char *text)
{
	int fd = (int)need(open(path, O_WRONLY | O_CLOEXEC), "open", path);
	need(write(fd, text, strlen(text)) == (ssize_t)strlen(text) ? 0 : -1, "write to", path);
	close(fd);
}

static const char *in_cgroup(const char *name)
{
	static char path[4096];
	if (!start.cgroup || strchr(name, '/') || snprintf(path, sizeof path, "%s/%s", start.cgroup, name) >= (int)sizeof path)
		fail("find %s of the cgroup: no such place", name);
	return path;
}

static void choose_cgroup(char *path, int) { start.cgroup = path; }
static void make_cgroup(char *, int) { need(mkdir(in_cgroup(""), 0755) < 0 && errno != EEXIST ? -1 : 0, "make", start.cgroup); }
static void choose_pid_namespace(char *, int flag) { start.pid_namespace = (int)need(role == SERVING ? flag : -1, "make", "pids"); }
static void set_umask(char *octal, int) { umask((mode_t)number(octal, 0, 0777)); }
static void set_nice(char *text, int) { need(setpriority(PRIO_PROCESS, 0, (int)number(text, -20, 19)), "set nice", text); }
static void set_oom_score(char *text, int) { write_to("/proc/self/oom_score_adj", text); }
static void enter(char *path, int) { need(chdir(path), "enter", path); }
static void ask_for_context(char *text, int) { write_to("/proc/thread-self/attr/exec", text); }
static void keep_capabilities(char *mask, int) { start.capabilities = (uint64_t)number(mask, 0, INT64_MAX); }

static void set_in_cgroup(char *assignment, int only_if_there)
{
	const char *value = cut(assignment, '='), *path = in_cgroup(assignment);
	if (!only_if_there || access(path, F_OK) == 0)
		write_to(path, value);
}

static void pin(char *list, int)
{
	cpu_set_t processors = { 0 };
	for (char *name; (name = strsep(&list, ","));)
		CPU_SET((size_t)number(name, 0, CPU_SETSIZE - 1), &processors);
	need(sched_setaffinity(0, sizeof processors, &processors), "choose", "processors");
}

static void use_terminal(char *path, int)
{
	setsid(), close(0); /* only a session's leader gets a controlling terminal; it may be one already */
	if (need(open(path, O_RDWR), "open terminal", path) != 0 || dup2(0, 1) < 0 || dup2(0, 2) < 0)
		fail("use terminal %s: %m", path);
}

static void separate(char *, int namespace)
{
	need(unshare(namespace), "make", "a namespace");
	if (namespace == CLONE_NEWNS)
		need(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "make private", "all mounts");
	if (namespace == CLONE_NEWNS && start.pid_namespace)
		need(mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL), "mount", "/proc");
}

static void add_variable(char *assignment, int)
{
	size_t which = 0, length = (size_t)(cut(assignment, '=') - assignment);
	assignment[length - 1] = '=';
	while (start.environment[which] && strncmp(start.environment[which], assignment, length))
		which++;
	if (which == MOST_WORDS)
		fail("add %s: the environment is too large", assignment);
	if (!start.environment[which])
		start.environment[which + 1] = NULL; /* what follows there is from an earlier request */
	start.environment[which] = assignment;
}

static void add_listen_pid(char *, int)
{
	static char text[32];
	add_variable((snprintf(text, sizeof text, "LISTEN_PID=%ld", syscall(SYS_getpid)), text), 0);
}

static void read_filter(char *from, int)
{
	static struct sock_filter program[BPF_MAXINSNS + 1]; /* one more than allowed: the kernel then refuses what was cut off */
	int fd = (int)need(*from == '/' ? open(from, O_RDONLY | O_CLOEXEC) : number(from, 0, MOVED), "open", from);
	long length = need(pread(fd, program, sizeof program, 0), "read the seccomp filter", from) / (long)sizeof *program;
	close(fd);
	start.filter = (struct sock_fprog){ (unsigned short)length, program };
}

static void apply_filter(char *, int is_last) /* without no_new_privs it needs CAP_SYS_ADMIN, so it can't be last */
{
	if (start.filter.filter && start.no_new_privileges == is_last)
		need(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &start.filter), "filter", "system calls");
}

static void limit(char *name, int)
{
	rlim_t most = (rlim_t)number(cut(name, '='), 0, INT64_MAX);
	int which = 0;
	while (which < RLIM_NLIMITS && (!limits[which] || strcmp(name, limits[which])))
		which++;
	need(prlimit(0, which, &(struct rlimit){ most, most }, NULL), "limit", name);
}

static void forgo(char *, int) { start.no_new_privileges = !need(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "forgo", "privileges"); }

/* Shrinks the bounding set, if we may. If not, no_new_privs is enough: then nothing can be gained from the set. */
static void bound_capabilities(char *, int)
{
	if (role == CHILD && start.no_new_privileges)
		return; /* capabilities(7): then execve can't gain what is not permitted now; it would be eighty calls for nothing */
	for (unsigned long which = 0; prctl(PR_CAPBSET_READ, which, 0, 0, 0) >= 0; which++)
		if (!(which < 64 && start.capabilities >> which & 1) && prctl(PR_CAPBSET_DROP, which, 0, 0, 0) < 0 &&
		    !(errno == EPERM && start.no_new_privileges))
			fail("drop capability %lu: %m", which);
}

/* By plain system calls: the C library's functions would change every thread of the process. */
static void become(char *user, int)
{
	char *list = cut(user, ':'), *name;
	gid_t uid = (uid_t)number(user, 0, UINT32_MAX - 1), gid[MOST_GROUPS], count = 0;
	for (; count < MOST_GROUPS && (name = strsep(&list, ",")); count++)
		gid[count] = (gid_t)number(name, 0, UINT32_MAX - 1);
	if (list || prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0 || syscall(SYS_setgroups, (long)count - 1, gid + 1) < 0 ||
	    syscall(SYS_setresgid, *gid, *gid, *gid) < 0 || syscall(SYS_setresuid, uid, uid, uid) < 0)
		fail("become user %u:%u: %m", uid, *gid);
}

/* All sets but the bounding one become what is kept; the ambient set carries it across the execution. */
static void set_capabilities(char *, int)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	uint32_t low = (uint32_t)start.capabilities, high = (uint32_t)(start.capabilities >> 32);
	struct __user_cap_data_struct sets[2] = { { low, low, low }, { high, high, high } };
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 || syscall(SYS_capset, &header, sets) < 0)
		fail("set capabilities: %m");
	for (unsigned long which = 0; which < 64; which++)
		if (start.capabilities >> which & 1 && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, which, 0, 0) < 0)
			fail("keep capability %lu: %m", which);
}

/* In the order in which they are taken: nameless steps always, those marked "before" before there is a child. */
static const struct step { const char *name; bool has_argument, before; void (*take)(char *, int); int how; } steps[] = {
	{ "--cgroup", 1, 1, choose_cgroup, 0 },        /* DIRECTORY: join this cgroup */
	{ "--cgroup-make", 0, 1, make_cgroup, 0 },     /* make it, if it is not there */
	{ "--cgroup-set", 1, 1, set_in_cgroup, 0 },    /* FILE=VALUE: write VALUE to FILE in it */
	{ "--cgroup-try", 1, 1, set_in_cgroup, 1 },    /* FILE=VALUE: the same, if it has such a file (a controller) */
	{ "--pid-private", 0, 1, choose_pid_namespace, CLONE_NEWPID }, /* be init of a pid namespace (with --serve) */
	{ "--umask", 1, 0, set_umask, 0 },             /* 0OCTAL */
	{ "--nice", 1, 0, set_nice, 0 },
	{ "--oom-score-adj", 1, 0, set_oom_score, 0 },
	{ "--cpus", 1, 0, pin, 0 },                    /* N,…: run only on these processors */
	{ "--terminal", 1, 0, use_terminal, 0 },       /* PATH: use it as controlling terminal, input and output */
	{ "--mount-private", 0, 0, separate, CLONE_NEWNS },
	{ "--netns-empty", 0, 0, separate, CLONE_NEWNET },
	{ "--ipc-private", 0, 0, separate, CLONE_NEWIPC },
	{ "--uts-private", 0, 0, separate, CLONE_NEWUTS },
	{ "--directory", 1, 0, enter, 0 },             /* PATH: start there instead of / */
	{ "--env", 1, 0, add_variable, 0 },            /* NAME=VALUE: add to the environment, otherwise passed on unchanged */
	{ "--listen-pid", 0, 0, add_listen_pid, 0 },   /* add LISTEN_PID, its own pid (sd_listen_fds(3)) */
	{ "--seccomp", 1, 0, read_filter, 0 },         /* FILE, or a descriptor's number: a BPF program for system calls */
	{ "--rlimit", 1, 0, limit, 0 },                /* NAME=N: limit a resource (nofile…), soft and hard alike */
	{ "--no-new-privs", 0, 0, forgo, 0 },      /* gain no rights by executing a file, now or later */
	{ "--keep-caps", 1, 0, keep_capabilities, 0 }, /* MASK: even as an ordinary user; all others are dropped for good */
	{ NULL, 0, 0, apply_filter, false },
	{ NULL, 0, 0, bound_capabilities, 0 },
	{ "--user", 1, 0, become, 0 },                 /* UID:GID[,GID…]: be this user, with these groups and no others */
	{ NULL, 0, 0, set_capabilities, 0 },
	{ "--context", 1, 0, ask_for_context, 0 },     /* SELinux's (with no_new_privs: if the policy allows nnp_nosuid_transition) */
	{ NULL, 0, 0, apply_filter, true },
};

static void take_steps(bool before)
{
	for (const struct step *step = steps; step < steps + LENGTH(steps); step++) {
		if (!step->name && !before)
			step->take(NULL, step->how);
		for (size_t which = 0; which < start.given_count && step->before == before; which++)
			if (start.given[which].step == step)
				step->take(start.given[which].argument, step->how);
	}
}

static void read_words(char **words)
{
	for (; *words && strcmp(*words, "--"); words++) {
		const struct step *step = steps;
		while (step < steps + LENGTH(steps) && (!step->name || strcmp(step->name, *words)))
			step++;
		if (step == steps + LENGTH(steps) || (step->has_argument && !words[1]) || start.given_count == MOST_WORDS)
			fail("read option %s", *words);
		start.given[start.given_count].step = step;
		start.given[start.given_count++].argument = step->has_argument ? *++words : NULL;
	}
	if (!*words || !words[1] || words[1][0] != '/')
		fail("find the program: its absolute path follows --");
	start.command = words + 1;
	char **into = start.environment;
	for (char **each = environ; *each && into < start.environment + MOST_WORDS;)
		*into++ = *each++;
	*into = NULL;
}

static _Noreturn void execute(void)
{
	if (start.cgroup && !start.born_in_cgroup)
		write_to(in_cgroup("cgroup.procs"), "0");
	need(chdir("/"), "enter", "/");
	take_steps(false);
	execve(start.command[0], start.command, start.environment);
	fail("execute %s: %m", start.command[0]);
}

static int become_child(void *)
{
	role = CHILD;
	sched_setaffinity(0, sizeof everywhere, &everywhere);
	setsid();
	need(syscall(SYS_close_range, SOCKET, ~0U, 1U << 2 /* CLOSE_RANGE_CLOEXEC */), "close", "what is not its own");
	for (int *each = start.descriptors; each < start.descriptors + start.descriptor_count; each++)
		*each = (int)need(fcntl(*each, F_DUPFD_CLOEXEC, MOVED), "move", "a descriptor"); /* out of one another's way */
	for (size_t which = 0; which < start.descriptor_count; which++)
		need(start.targets[which] < MOVED ? dup2(start.descriptors[which], (int)start.targets[which]) : -1, "place", "a descriptor");
	execute();
}

/* The child has a stack of its own and the server waits (CLONE_VFORK): neither sees the other's calls half done. */
static long clone_child(void)
{
	static char stack[1 << 16] __attribute__((aligned(16)));
	const int flags = CLONE_VM | CLONE_VFORK | CLONE_PARENT | start.pid_namespace;
#ifdef __x86_64__
	int group = start.cgroup ? open(start.cgroup, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
	struct clone_args how = { .flags = (unsigned)flags | CLONE_INTO_CGROUP, .stack = (uintptr_t)stack,
		.stack_size = sizeof stack, .cgroup = (unsigned)group };
	register int (*begin)(void *) __asm__("r8") = become_child;
	long result = SYS_clone3;
	start.born_in_cgroup = group >= 0;
	if (start.born_in_cgroup)
		__asm__ volatile("syscall; test %%rax, %%rax; jnz 1f; call *%%r8; 1:"
			: "+a"(result) : "D"(&how), "S"(sizeof how), "r"(begin) : "rcx", "r11", "cc", "memory");
	errno = (int)-result;
	if (start.born_in_cgroup && (result > 0 || errno == EAGAIN || errno == ENOMEM))
		return result;
	start.born_in_cgroup = false; /* no clone3 in this kernel or container, or the cgroup refuses: the child joins it by itself */
#endif
	return clone(become_child, stack + sizeof stack, flags, NULL);
}

static void carry_out(const struct msghdr *request, char *text, const char *end)
{
	const struct cmsghdr *rights = CMSG_FIRSTHDR(request);
	const uint32_t *head = request->msg_iov->iov_base;
	size_t count = 0;
	long child;
	cpu_set_t here = { 0 };
	start.descriptor_count = rights ? (rights->cmsg_len - CMSG_LEN(0)) / sizeof(int) : 0;
	text += (2 + start.descriptor_count) * sizeof *head;
	if (text >= end || end[-1] || head[1] != start.descriptor_count || request->msg_flags & (MSG_TRUNC | MSG_CTRUNC))
		fail("read the request: it is not whole");
	memcpy(start.descriptors, rights ? CMSG_DATA(rights) : (void *)start.descriptors, start.descriptor_count * sizeof(int));
	memcpy(start.targets, head + 2, start.descriptor_count * sizeof *head);
	for (; text < end && count < MOST_WORDS; text += strlen(text) + 1)
		start.words[count++] = text;
	start.words[count] = NULL;
	read_words(start.words);
	take_steps(true);
	/* Child and server take turns: on one processor they do so without waking another, which takes several times as long. */
	sched_getaffinity(0, sizeof everywhere, &everywhere);
	CPU_SET((size_t)sched_getcpu(), &here);
	sched_setaffinity(0, sizeof here, &here);
	child = clone_child();
	sched_setaffinity(0, sizeof everywhere, &everywhere);
	answer.pid = (int32_t)need(child, "clone", "a child");
}

static _Noreturn void serve(int fd)
{
	static char message[MOST_BYTES] __attribute__((aligned(8))), control[CMSG_SPACE(MOST_DESCRIPTORS * sizeof(int))];
	struct iovec part = { message, sizeof message };
	static ssize_t length; /* static: setjmp */
	for (int each = 1; each < _NSIG; each++)
		signal(each, SIG_DFL);
	sigprocmask(SIG_SETMASK, &(sigset_t){ 0 }, NULL);
	need(dup2(fd, SOCKET) < 0 ? -1 : fcntl(SOCKET, F_SETFD, FD_CLOEXEC), "serve", "that descriptor");
	for (;;) {
		struct msghdr request = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
		syscall(SYS_close_range, SOCKET + 1, ~0U, 0);
		if ((length = recvmsg(SOCKET, &request, MSG_CMSG_CLOEXEC)) <= 0)
			_exit(0);
		memset(&start, 0, offsetof(struct request, words));
		answer.pid = answer.error = 0, answer.why[0] = 0;
		memcpy(&answer.number, message, sizeof answer.number);
		role = SERVING, errno = 0;
		if (!setjmp(give_answer))
			carry_out(&request, message, message + length);
		send(SOCKET, &answer, sizeof answer - sizeof answer.why + strlen(answer.why), MSG_NOSIGNAL);
	}
}

int main(int count, char **words)
{
	if (count == 3 && !strcmp(words[1], "--serve"))
		serve((int)number(words[2], 0, INT32_MAX));
	read_words(words + 1);
	take_steps(true);
	execute();
}
