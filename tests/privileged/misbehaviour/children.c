/* Programs with children that they don't look after. */
#include "behaviour.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

static void be_deaf(void)
{
	signal(SIGTERM, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
}

/* Forks twice and leaves the session, as daemon(3) does: init becomes its parent. The first process goes on. */
static void forks_twice(void)
{
	pid_t child = fork();

	if (!child) {
		setsid();
		if (fork())
			_exit(0);
		be_deaf();
		tell("grandchild");
		rest();
	}
	waitpid(child, NULL, 0);
	tell("alive");
	rest();
}

/* Its parent ends well once the child has told that it is there. */
static void daemonises(void)
{
	int channel[2];
	char byte;

	if (pipe(channel) < 0)
		broken("pipe");
	if (fork()) {
		close(channel[1]);
		_exit(read(channel[0], &byte, 1) == 1 ? 0 : 98);
	}
	setsid();
	if (chdir("/") < 0)
		broken("chdir");
	for (int fd = 0; fd < 3; fd++)
		close(fd);
	be_deaf();
	tell("daemon");
	if (write(channel[1], ".", 1) != 1)
		broken("write");
	rest();
}

static void leaks_children_that_ignore_sigterm(void)
{
	for (int number = 0; number < 5; number++)
		if (!fork()) {
			be_deaf();
			tell("child");
			rest();
		}
	tell("alive");
	rest();
}

/* A grandchild in a session of its own keeps standard output open when the first process is gone. */
static void leaves_its_output_to_a_grandchild(void)
{
	if (!fork()) {
		setsid();
		if (fork())
			_exit(0);
		be_deaf();
		puts("from the grandchild");
		fflush(stdout);
		tell("grandchild");
		rest();
	}
	await_go();
}

/* As before, but the grandchild first moves to the control group ARGUMENT, where the service's end can't find it. */
static void leaves_its_output_to_one_outside_its_group(void)
{
	if (!fork()) {
		char path[4096];
		int fd;

		if (mkdir(argument, 0755) < 0)
			broken(argument);
		snprintf(path, sizeof path, "%s/cgroup.procs", argument);
		fd = open(path, O_WRONLY | O_CLOEXEC);
		if (fd < 0 || write(fd, "0", 1) != 1)
			broken(path);
		close(fd);
		be_deaf();
		tell("outside");
		rest();
	}
	rest();
}

/* Fifty children end at once and nobody waits for them. */
static void never_waits_for_its_children(void)
{
	for (int number = 0; number < 50; number++) {
		siginfo_t ended;
		pid_t child = fork();

		if (!child)
			_exit(0);
		waitid(P_PID, (id_t)child, &ended, WEXITED | WNOWAIT);
	}
	tell("fifty zombies");
	rest();
}

/* Each process of the chain lives for a moment only: whoever kills by a list of pids is always late. */
static void is_a_comet(void)
{
	const struct timespec moment = { .tv_nsec = 200000 };

	if (!fork()) {
		be_deaf();
		setsid();
		tell("comet");
		while (!fork())
			nanosleep(&moment, NULL);
		_exit(0);
	}
	rest();
}

static void *live_on(void *nothing)
{
	char state[256] = "";

	/* Until the first thread is a zombie, as /proc shows it. */
	while (!strstr(state, ") Z ")) {
		FILE *file = fopen("/proc/self/stat", "re");

		if (!file || !fgets(state, sizeof state, file))
			broken("/proc/self/stat");
		fclose(file);
	}
	tell("headless");
	rest();
	return nothing;
}

/* /proc shows its first thread as a zombie, but the process lives. */
static void outlives_its_first_thread(void)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, live_on, NULL))
		broken("pthread_create");
	pthread_exit(NULL);
}

/* Bounded by itself too: where nothing limits it, it must not take the machine along. */
static void is_a_fork_bomb(void)
{
	int children = 0;

	for (; children < 500; children++) {
		pid_t child = fork();

		if (child < 0)
			break;
		if (!child)
			rest();
	}
	tell(children < 500 ? "bounded" : "unbounded");
	rest();
}

const struct behaviour behaviours[] = {
	DOES(forks_twice), DOES(daemonises), DOES(leaks_children_that_ignore_sigterm), DOES(leaves_its_output_to_a_grandchild),
	DOES(leaves_its_output_to_one_outside_its_group), DOES(never_waits_for_its_children), DOES(is_a_comet),
	DOES(outlives_its_first_thread), DOES(is_a_fork_bomb), { 0 },
};
