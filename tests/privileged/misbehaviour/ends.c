/* Programs that end, or become something else, when nobody expects it. */
#include "behaviour.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/stat.h>

static void ends_well(void)
{
}

static void ends_badly(void)
{
	_exit(1);
}

static void is_killed_by_its_own_fault(void)
{
	raise(SIGSEGV);
}

static void aborts(void)
{
	abort();
}

/* Counts its lives in the file ARGUMENT, one byte each; the third is the good one. */
static int lives(void)
{
	int fd = open(argument, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	struct stat state;

	if (fd < 0 || write(fd, ".", 1) != 1 || fstat(fd, &state) < 0)
		broken(argument);
	return (int)state.st_size;
}

static void recovers_in_its_third_life(void)
{
	if (lives() < 3)
		_exit(1);
	tell("well");
	rest();
}

static void works_in_its_third_life(void)
{
	if (lives() < 3)
		_exit(1);
}

static void lives_on(void)
{
	tell("alive");
	rest();
}

static void ends_well_when_told(void)
{
	tell("alive");
	await_go();
}

static void ends_badly_when_told(void)
{
	tell("alive");
	await_go();
	_exit(3);
}

/* Asked to stop it tells so, and does not. */
static void dawdles_when_asked(void)
{
	sigset_t asked;

	sigemptyset(&asked);
	sigaddset(&asked, SIGTERM);
	sigprocmask(SIG_BLOCK, &asked, NULL);
	tell("alive");
	sigwaitinfo(&asked, NULL);
	tell("asked");
	rest();
}

static void crashes_when_asked(void)
{
	sigset_t asked;

	sigemptyset(&asked);
	sigaddset(&asked, SIGTERM);
	sigprocmask(SIG_BLOCK, &asked, NULL);
	tell("alive");
	sigwaitinfo(&asked, NULL);
	raise(SIGKILL);
}

static void becomes_another(void)
{
	char *const words[] = { "another", "lives_on", (char *)tell_address, NULL };

	execv("/proc/self/exe", words);
	broken("execv");
}

/* The name is made to be read wrongly out of /proc/PID/stat: it looks like a zombie that is a child of 1. */
static void bears_a_name_that_lies(void)
{
	if (!fork()) {
		prctl(PR_SET_NAME, "x) Z 1 (");
		tell("liar");
		rest();
	}
	prctl(PR_SET_NAME, "y) Z 1 (");
	tell("alive");
	rest();
}

/* Needs a copy of itself at ARGUMENT, from which it runs. */
static void removes_its_own_program(void)
{
	const char *notify = getenv("NOTIFY_SOCKET");

	send_to(notify, "READY=1", 7);
	tell("ready");
	await_go();
	if (unlink(argument) < 0)
		broken(argument);
	_exit(1);
}

const struct behaviour behaviours[] = {
	DOES(ends_well), DOES(ends_badly), DOES(is_killed_by_its_own_fault), DOES(aborts),
	DOES(recovers_in_its_third_life), DOES(works_in_its_third_life), DOES(lives_on), DOES(ends_well_when_told),
	DOES(ends_badly_when_told),
	DOES(dawdles_when_asked), DOES(crashes_when_asked), DOES(becomes_another), DOES(bears_a_name_that_lies),
	DOES(removes_its_own_program), { 0 },
};
