/* Programs that don't take signals as they should. */
#include "behaviour.h"

#include <sys/prctl.h>
#include <sys/ptrace.h>

static void on_term(void (*handler)(int))
{
	struct sigaction action = { .sa_handler = handler };

	sigaction(SIGTERM, &action, NULL);
}

static void ignores_sigterm(void)
{
	on_term(SIG_IGN);
	tell("deaf");
	rest();
}

static void ignores_all_signals(void)
{
	for (int number = 1; number < NSIG; number++)
		signal(number, SIG_IGN);
	tell("deaf");
	rest();
}

static void blocks_all_signals(void)
{
	sigset_t all;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	tell("deaf");
	rest();
}

static void laugh(int number)
{
	(void)number;
	tell("laughs");
}

static void laughs_at_sigterm(void)
{
	on_term(laugh);
	tell("alive");
	rest();
}

static void stops_itself(void)
{
	tell("stopping itself");
	raise(SIGSTOP);
	rest();
}

static void leave_a_child(int number)
{
	int channel[2];
	char byte;

	(void)number;
	if (pipe(channel) < 0)
		broken("pipe");
	if (fork()) {
		close(channel[1]);
		_exit(read(channel[0], &byte, 1) == 1 ? 0 : 98);
	}
	on_term(SIG_IGN);
	tell("child");
	if (write(channel[1], ".", 1) != 1)
		broken("write");
	rest();
}

static void leaves_a_child_when_asked(void)
{
	on_term(leave_a_child);
	tell("alive");
	rest();
}

static void multiply(int number)
{
	(void)number;
	for (int child = 0; child < 20; child++)
		if (!fork()) {
			on_term(SIG_IGN);
			tell("child");
			rest();
		}
}

static void multiplies_when_asked(void)
{
	on_term(multiply);
	tell("alive");
	rest();
}

/* A child traces it and swallows its signals: SIGTERM reaches the tracer only. */
static void is_traced_by_its_child(void)
{
	pid_t self = getpid();

	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
	if (!fork()) {
		if (ptrace(PTRACE_SEIZE, self, 0, 0) < 0)
			broken("ptrace");
		tell("traced");
		rest();
	}
	rest();
}

/* Its parent is the supervisor: now that one's wait calls are told of stops which are no ends (ptrace(2)). */
static void has_the_supervisor_trace_it(void)
{
	if (ptrace(PTRACE_TRACEME, 0, 0, 0) < 0)
		broken("ptrace");
	tell("traced");
	raise(SIGSTOP);
	rest();
}

static void has_the_supervisor_trace_it_and_forks(void)
{
	if (ptrace(PTRACE_TRACEME, 0, 0, 0) < 0)
		broken("ptrace");
	if (!fork()) {
		if (!fork()) {
			tell("orphan");
			await_go();
			_exit(0);
		}
		_exit(0);
	}
	raise(SIGSTOP);
	rest();
}

static void floods_its_parent_with_sigchld(void)
{
	tell("flooding");
	for (;;)
		kill(getppid(), SIGCHLD);
}

const struct behaviour behaviours[] = {
	DOES(ignores_sigterm), DOES(ignores_all_signals), DOES(blocks_all_signals), DOES(laughs_at_sigterm), DOES(stops_itself),
	DOES(leaves_a_child_when_asked), DOES(multiplies_when_asked), DOES(is_traced_by_its_child),
	DOES(has_the_supervisor_trace_it), DOES(has_the_supervisor_trace_it_and_forks), DOES(floods_its_parent_with_sigchld), { 0 },
};
