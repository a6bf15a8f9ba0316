/* Programs that do as a supervisor asks, until their test tells them not to: readiness, health, clients, the store. */
#include "behaviour.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdint.h>
#include <sys/mman.h>
#include <time.h>

static void notify(const char *text)
{
	send_to(getenv("NOTIFY_SOCKET"), text, strlen(text));
}

static int is_told_to_go(int milliseconds)
{
	sigset_t go;

	sigemptyset(&go);
	sigaddset(&go, SIGUSR1);
	return sigtimedwait(&go, NULL, &(struct timespec){ milliseconds / 1000, milliseconds % 1000 * 1000000L }) == SIGUSR1;
}

/* --- readiness */

static void says_ready_by_descriptor(void)
{
	int fd = atoi(getenv("READY_FD"));

	tell("silent");
	await_go();
	if (write(fd, "half a line", 11) != 11)
		broken("write");
	tell("half");
	await_go();
	if (write(fd, "\n", 1) != 1)
		broken("write");
	close(fd);
	tell("said");
	rest();
}

static void says_ready_and_ends(void)
{
	notify("READY=1");
	_exit(5);
}

static void closes_its_ready_descriptor(void)
{
	close(atoi(getenv("READY_FD")));
	tell("closed");
	rest();
}

/* --- health */

static int listening(void)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argument)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), yes = 1;

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) < 0 || bind(fd, (struct sockaddr *)&to, sizeof to) < 0 ||
	    listen(fd, 16) < 0)
		broken("listen");
	return fd;
}

static void listens_until_told(void)
{
	int fd = listening();

	tell("listening");
	await_go();
	close(fd);
	tell("deaf");
	rest();
}

/* Answers 200, then 503 from SIGUSR1 on, then with nothing at all. */
static void answers_http(void)
{
	static const char *const answers[] = { "HTTP/1.0 200 OK\r\n\r\n", "HTTP/1.0 503 Unwell\r\n\r\n", "" };
	int fd = listening(), which = 0;

	tell("listening");
	for (;;) {
		char request[4096];
		struct pollfd poller = { .fd = fd, .events = POLLIN };
		int client;

		if (which < 2 && is_told_to_go(0)) {
			which++;
			tell("worse");
		}
		if (poll(&poller, 1, 5) != 1)
			continue;
		client = accept(fd, NULL, NULL);
		if (*answers[which] && read(client, request, sizeof request) > 0 && write(client, answers[which], strlen(answers[which])) < 0)
			broken("write");
		close(client); /* unread: the other end sees a reset */
	}
}

static void feeds_its_watchdog_until_told(void)
{
	puts(getenv("WATCHDOG_USEC"));
	fflush(stdout);
	notify("READY=1");
	tell("feeding");
	while (!is_told_to_go(10))
		notify("WATCHDOG=1");
	tell("silent");
	rest();
}

static void says_that_it_hangs(void)
{
	notify("WATCHDOG=trigger"); /* not started yet: of no meaning */
	tell("starting");
	await_go();
	notify("READY=1");
	tell("started");
	await_go();
	notify("WATCHDOG=trigger");
	rest();
}

/* --- clients: whatever it is handed from descriptor 3 on */

static void serve(int fd)
{
	static char data[256];
	ssize_t length;
	int client = accept(fd, NULL, NULL);

	if (client >= 0) {
		dprintf(client, "%ld", (long)getpid());
		close(client);
		tell("served");
		return;
	}
	length = read(fd, data, sizeof data - 1);
	if (length < 0)
		broken("read");
	data[length] = '\0';
	tell(data);
}

static void takes_clients(void)
{
	struct pollfd handed[16];
	nfds_t count = (nfds_t)atoi(getenv("LISTEN_FDS"));

	if (atol(getenv("LISTEN_PID")) != (long)getpid())
		broken("LISTEN_PID");
	puts(getenv("LISTEN_FDNAMES"));
	fflush(stdout);
	for (nfds_t which = 0; which < count; which++)
		handed[which] = (struct pollfd){ .fd = 3 + (int)which, .events = POLLIN };
	tell("taking");
	for (int done = 0; !*argument || !done;) {
		if (poll(handed, count, -1) < 0)
			broken("poll");
		for (nfds_t which = 0; which < count; which++)
			if (handed[which].revents) {
				serve(handed[which].fd);
				done = 1;
			}
	}
}

/* One connection, on descriptor 3: says who it is, and ends when the other end does. */
static void is_a_connection(void)
{
	char byte;

	if (atol(getenv("LISTEN_PID")) != (long)getpid() || strcmp(getenv("LISTEN_FDS"), "1") || fcntl(4, F_GETFD) >= 0)
		broken("what it is handed");
	printf("from %s\n", getenv("REMOTE_ADDR") ? getenv("REMOTE_ADDR") : "here");
	fflush(stdout);
	dprintf(3, "%ld", (long)getpid());
	tell("connected");
	while (read(3, &byte, 1) > 0)
		;
}

static void is_a_connection_that_stays(void)
{
	signal(SIGTERM, SIG_IGN);
	dprintf(3, "%ld", (long)getpid());
	tell("connected");
	rest();
}

/* --- the store */

static void store(int fd, const char *text)
{
	union {
		char space[CMSG_SPACE(sizeof(int))];
		struct cmsghdr aligned;
	} control = { 0 };
	struct iovec part = { .iov_base = (void *)(uintptr_t)text, .iov_len = strlen(text) };
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	struct msghdr message = {
		.msg_name = &to, .msg_namelen = sizeof to, .msg_iov = &part, .msg_iovlen = 1,
		.msg_control = control.space, .msg_controllen = sizeof control.space,
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	int opened = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	strncpy(to.sun_path, getenv("NOTIFY_SOCKET"), sizeof to.sun_path - 1);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(header), &fd, sizeof fd);
	if (opened < 0 || sendmsg(opened, &message, 0) < 0)
		broken("sendmsg");
	close(opened);
}

static void say_what_was_kept(void)
{
	puts(getenv("LISTEN_FDNAMES") ? getenv("LISTEN_FDNAMES") : "nothing");
	fflush(stdout);
}

/* Stores a file in its first life and ends at once, whether it was read or not; in its second it says what is in it. */
static void leaves_a_file(void)
{
	char text[16] = "";
	int fd;

	say_what_was_kept();
	if (getenv("LISTEN_FDS")) {
		if (pread(3, text, sizeof text - 1, 0) < 0)
			broken("pread");
		tell(text);
		rest();
	}
	fd = memfd_create("left", 0);
	if (fd < 0 || write(fd, "remember", 8) != 8)
		broken("memfd_create");
	store(fd, "FDSTORE=1\nFDNAME=file");
	_exit(1);
}

/* Stores both ends' worth of a pipe; told, it has one given up, then lets the other hang up. */
static void stores_pipes(void)
{
	int first[2], second[2];

	say_what_was_kept();
	if (pipe(first) < 0 || pipe(second) < 0)
		broken("pipe");
	store(first[0], "FDSTORE=1\nFDNAME=first");
	store(second[0], "FDSTORE=1\nFDNAME=second");
	store(second[0], "FDSTORE=1\nFDNAME=one-too-many");
	notify("READY=1");
	tell("stored");
	await_go();
	notify("FDSTOREREMOVE=1\nFDNAME=first");
	notify("STATUS=removed");
	tell("removed");
	await_go();
	close(second[0]);
	close(second[1]);
	tell("hung up");
	rest();
}

const struct behaviour behaviours[] = {
	DOES(says_ready_by_descriptor), DOES(says_ready_and_ends), DOES(closes_its_ready_descriptor), DOES(listens_until_told),
	DOES(answers_http), DOES(feeds_its_watchdog_until_told), DOES(says_that_it_hangs), DOES(takes_clients),
	DOES(is_a_connection), DOES(is_a_connection_that_stays), DOES(leaves_a_file), DOES(stores_pipes), { 0 },
};
