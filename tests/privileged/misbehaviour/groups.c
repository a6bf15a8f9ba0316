/* Programs that, being root, change what surrounds them: their control group, their user. */
#include "behaviour.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/stat.h>

/* ARGUMENT is the service's control group. */
static void write_to(const char *name, const char *text)
{
	char path[4096];
	int fd;

	snprintf(path, sizeof path, "%s/%s", argument, name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		broken(path);
	close(fd);
}

static void make(const char *name)
{
	char path[4096];

	snprintf(path, sizeof path, "%s/%s", argument, name);
	if (mkdir(path, 0755) < 0)
		broken(path);
}

static void leaves_its_group(void)
{
	signal(SIGTERM, SIG_IGN);
	make("../elsewhere");
	write_to("../elsewhere/cgroup.procs", "0");
	tell("elsewhere");
	rest();
}

static void child_in(const char *procs)
{
	if (!fork()) {
		signal(SIGTERM, SIG_IGN);
		write_to(procs, "0");
		tell("below");
		rest();
	}
}

static void makes_groups_below(void)
{
	make("a");
	make("a/b");
	make("a/b/c");
	make("empty");
	child_in("a/cgroup.procs");
	child_in("a/b/c/cgroup.procs");
	rest();
}

/* cgroup.kill and cgroup.procs refuse a threaded group (cgroup-v2.rst, "Threads"). */
static void makes_a_threaded_group(void)
{
	make("threads");
	write_to("threads/cgroup.type", "threaded");
	write_to("threads/cgroup.threads", "0");
	signal(SIGTERM, SIG_IGN);
	tell("threaded");
	rest();
}

static void obey(int number)
{
	(void)number;
	_exit(0);
}

/* It would obey SIGTERM, but what is frozen runs no handler; only a signal that ends it is let through. */
static void freezes_its_group(void)
{
	signal(SIGTERM, obey);
	tell("freezing");
	write_to("cgroup.freeze", "1");
	rest();
}

static void kills_its_group(void)
{
	tell("killing");
	write_to("cgroup.kill", "1");
	rest();
}

static void becomes_another_user(void)
{
	if (setresuid(4711, 4711, 4711) < 0)
		broken("setresuid");
	/* Nobody may look into it or trace it, root aside. */
	prctl(PR_SET_DUMPABLE, 0);
	tell("another user");
	rest();
}

static void eats_all_memory(void)
{
	tell("hungry");
	await_go();
	for (;;) {
		char *eaten = malloc(1 << 20);

		if (!eaten)
			broken("malloc");
		memset(eaten, 1, 1 << 20);
	}
}

const struct behaviour behaviours[] = {
	DOES(leaves_its_group), DOES(makes_groups_below), DOES(makes_a_threaded_group), DOES(freezes_its_group),
	DOES(kills_its_group), DOES(becomes_another_user), DOES(eats_all_memory), { 0 },
};
