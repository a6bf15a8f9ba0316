/* Not a supervisor: what services with the default profile cost any supervisor.
 *
 *   floor PROGRAM SLOTS COUNT
 *
 * Starts PROGRAM SLOTS 0 to COUNT - 1, each in a control group of its own from birth, with a pipe for its output, a
 * session and no-new-privileges, and restarts whatever ends. It reads no definitions, has no states, keeps no output,
 * limits no restarts and can't be asked to stop: its figures are a floor for anything that does more.
 *
 * It is the quickest of what was tried: one process for each processor, with a clone like vfork's (clone(2)); and when a
 * single service is restarted, its clone stays on our processor, since waking another takes longer.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static cpu_set_t everywhere;
static struct service {
	long pid;
	int output;
	char group[64], index[32];
} *services;
static char *program, *slots;
static int null;

static int need(int result, const char *what)
{
	if (result >= 0)
		return result;
	perror(what);
	exit(111);
}

static void start(struct service *service)
{
	char *command[] = { program, slots, service->index, NULL };
	need(mkdir(service->group, 0755), service->group);
	int group = need(open(service->group, O_PATH | O_DIRECTORY | O_CLOEXEC), service->group);
	struct clone_args how = { .flags = CLONE_INTO_CGROUP | CLONE_VM | CLONE_VFORK, .exit_signal = SIGCHLD, .cgroup = (unsigned)group };
	long pid = SYS_clone3;
#ifdef __x86_64__ /* not by syscall(2): a child in our memory must not return from a function before us */
	__asm__ volatile("syscall" : "+a"(pid) : "D"(&how), "S"(sizeof how) : "rcx", "r11", "memory");
	errno = pid < 0 ? (int)-pid : 0;
#else
	how.flags = CLONE_INTO_CGROUP;
	pid = syscall(SYS_clone3, &how, sizeof how);
#endif
	if (!pid) {
		sched_setaffinity(0, sizeof everywhere, &everywhere);
		setsid();
		dup2(null, 0), dup2(service->output, 1), dup2(service->output, 2);
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		execv(program, command);
		_exit(111);
	}
	service->pid = need((int)pid < 0 ? -1 : (int)pid, "clone");
	close(group);
}

static void start_again(struct service *service)
{
	cpu_set_t here = { 0 };
	CPU_SET((size_t)sched_getcpu(), &here);
	need(rmdir(service->group), service->group);
	sched_setaffinity(0, sizeof here, &here);
	start(service);
	sched_setaffinity(0, sizeof everywhere, &everywhere);
}

int main(int words, char **word)
{
	size_t count = words == 4 ? strtoul(word[3], NULL, 10) : 0, first = 0;
	need(sched_getaffinity(0, sizeof everywhere, &everywhere), "processors");
	size_t workers = (size_t)CPU_COUNT(&everywhere);
	services = calloc(count + 1, sizeof *services);
	null = need(open("/dev/null", O_RDWR | O_CLOEXEC), "/dev/null");
	program = word[1], slots = word[2];
	while (first + 1 < workers && need(fork(), "fork"))
		first++;
	for (size_t each = first; each < count; each += workers) {
		int ends[2]; /* nobody reads: these services say nothing */
		need(pipe2(ends, O_CLOEXEC), "pipe");
		services[each].output = ends[1];
		snprintf(services[each].index, sizeof services[each].index, "%zu", each);
		snprintf(services[each].group, sizeof services[each].group, "/sys/fs/cgroup/s%zu", each);
		start(&services[each]);
	}
	for (;;) {
		pid_t pid = need(wait(NULL), "wait");
		for (size_t each = first; each < count; each += workers)
			if (services[each].pid == pid)
				start_again(&services[each]);
	}
}
