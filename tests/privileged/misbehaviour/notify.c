/* Programs that don't keep to the protocol of sd_notify(3), and one that listens late. */
#include "behaviour.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/wait.h>

static void notify(const char *text)
{
	send_to(getenv("NOTIFY_SOCKET"), text, strlen(text));
}

static void is_ready_twice(void)
{
	notify("READY=1");
	tell("once");
	await_go();
	/* Nobody need listen any more: sd_notify(3) may fail. */
	if (!fork()) {
		notify("READY=1");
		_exit(0);
	}
	wait(NULL);
	tell("twice");
	rest();
}

static void never_says_ready(void)
{
	unsetenv("NOTIFY_SOCKET");
	tell("mute");
	rest();
}

static void says_ready_when_asked_to_stop(void)
{
	sigset_t asked;

	sigemptyset(&asked);
	sigaddset(&asked, SIGTERM);
	sigprocmask(SIG_BLOCK, &asked, NULL);
	tell("mute");
	sigwaitinfo(&asked, NULL);
	notify("READY=1");
	tell("too late");
	rest();
}

static void has_a_child_say_ready(void)
{
	if (!fork()) {
		setsid();
		notify("READY=1");
		tell("child");
		rest();
	}
	rest();
}

static void tells_its_address(void)
{
	puts(getenv("NOTIFY_SOCKET"));
	fflush(stdout);
	tell("waiting");
	await_go();
	notify("READY=1");
	rest();
}

static void says_ready_for_another(void)
{
	send_to(argument, "READY=1\nSTATUS=a stranger was here", 34);
	tell("lied");
	rest();
}

static void talks_rubbish(void)
{
	static unsigned char rubbish[3000];
	const char *address = getenv("NOTIFY_SOCKET");

	notify("");
	notify("\n\n\n");
	notify("READY");
	notify("READY=0");
	notify("READY=yes");
	notify("ready=1");
	notify(" READY=1");
	notify("STATUS=\xff\xfe\nX_UNKNOWN=1\n=\n==");
	for (unsigned int seed = 1; seed <= 200; seed++) {
		srand(seed);
		for (size_t at = 0; at < sizeof rubbish; at++)
			rubbish[at] = (unsigned char)rand();
		send_to(address, rubbish, (size_t)rand() % sizeof rubbish);
	}
	tell("rubbish");
	await_go();
	notify("READY=1");
	rest();
}

static void has_a_giant_status(void)
{
	static char giant[100000];

	memset(giant, 'x', sizeof giant);
	memcpy(giant, "STATUS=", 7);
	send_to(getenv("NOTIFY_SOCKET"), giant, sizeof giant);
	notify("READY=1");
	tell("giant");
	rest();
}

static void floods_its_notify_socket(void)
{
	tell("flooding");
	for (;;)
		notify("STATUS=and again");
}

static void removes_its_notify_socket(void)
{
	if (unlink(getenv("NOTIFY_SOCKET")) < 0)
		broken("unlink");
	tell("removed");
	rest();
}

/* Descriptors that come with a message are open in whoever receives it, asked for or not (unix(7), SCM_RIGHTS). */
static void hands_over_descriptors(void)
{
	union {
		char space[CMSG_SPACE(100 * sizeof(int))];
		struct cmsghdr aligned;
	} control = { 0 };
	struct iovec text = { .iov_base = "READY=1", .iov_len = 7 };
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	struct msghdr message = {
		.msg_name = &to, .msg_namelen = sizeof to, .msg_iov = &text, .msg_iovlen = 1,
		.msg_control = control.space, .msg_controllen = sizeof control.space,
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), handed[100];

	strncpy(to.sun_path, getenv("NOTIFY_SOCKET"), sizeof to.sun_path - 1);
	for (int which = 0; which < 100; which++)
		handed[which] = fd;
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof handed);
	memcpy(CMSG_DATA(header), handed, sizeof handed);
	if (fd < 0 || sendmsg(fd, &message, 0) < 0)
		broken("sendmsg");
	tell("handed over");
	rest();
}

static int bound(int port)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&to, sizeof to) < 0)
		return -1;
	return fd;
}

static void listens_late(void)
{
	int fd = bound(atoi(argument));

	if (fd < 0)
		broken("bind");
	tell("bound");
	await_go();
	listen(fd, 1);
	rest();
}

static void listens_elsewhere(void)
{
	int fd = bound(0);

	if (fd < 0 || listen(fd, 1) < 0)
		broken("listen");
	tell("elsewhere");
	rest();
}

static void finds_its_port_taken(void)
{
	if (bound(atoi(argument)) >= 0)
		broken("it is free");
	tell("taken");
	rest();
}

static void ends_before_it_listens(void)
{
	tell("alive");
	await_go();
	_exit(4);
}

const struct behaviour behaviours[] = {
	DOES(is_ready_twice), DOES(never_says_ready), DOES(says_ready_when_asked_to_stop), DOES(has_a_child_say_ready),
	DOES(tells_its_address), DOES(says_ready_for_another), DOES(talks_rubbish), DOES(has_a_giant_status),
	DOES(floods_its_notify_socket), DOES(removes_its_notify_socket), DOES(hands_over_descriptors), DOES(listens_late),
	DOES(listens_elsewhere), DOES(finds_its_port_taken), DOES(ends_before_it_listens), { 0 },
};
