/* What the misbehaving programs share.
 *
 *     PROGRAM BEHAVIOUR TELL [ARGUMENT]
 *
 * Each program is a list of behaviours, one short function each. A behaviour tells its test where it is by a
 * datagram to the socket TELL, of which the kernel says who sent it: that works with every descriptor closed,
 * and nobody need sleep. What the test answers is SIGUSR1, which is blocked from the beginning and waited for.
 */
#ifndef BEHAVIOUR_H
#define BEHAVIOUR_H

#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct behaviour {
	const char *name;
	void (*act)(void); /* returning is ending with status 0 */
};

#define DOES(name) { #name, name }

extern const struct behaviour behaviours[];

static const char *tell_address, *argument;

/* Ends with a status that no behaviour uses: the test sees that the program, not the supervisor, went wrong. */
static inline _Noreturn void broken(const char *what)
{
	perror(what);
	_exit(99);
}

static inline void send_to(const char *address, const void *data, size_t size)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	strncpy(to.sun_path, address, sizeof to.sun_path - 1);
	if (fd < 0 || sendto(fd, data, size, 0, (struct sockaddr *)&to, sizeof to) < 0)
		broken(address);
	close(fd);
}

static inline void tell(const char *word)
{
	send_to(tell_address, word, strlen(word));
}

/* Wait for the test's word to go on. */
static inline void await_go(void)
{
	sigset_t go;

	sigemptyset(&go);
	sigaddset(&go, SIGUSR1);
	if (sigwaitinfo(&go, NULL) < 0)
		broken("sigwaitinfo");
}

static inline _Noreturn void rest(void)
{
	for (;;)
		pause();
}

int main(int count, char **words)
{
	sigset_t go;

	sigemptyset(&go);
	sigaddset(&go, SIGUSR1);
	sigprocmask(SIG_BLOCK, &go, NULL);
	if (count < 3)
		broken("PROGRAM BEHAVIOUR TELL [ARGUMENT]");
	tell_address = words[2];
	argument = count > 3 ? words[3] : "";
	for (const struct behaviour *behaviour = behaviours; behaviour->name; behaviour++)
		if (!strcmp(behaviour->name, words[1])) {
			behaviour->act();
			return 0;
		}
	broken(words[1]);
}

#endif
