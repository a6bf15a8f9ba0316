/* What both roots of the boot benchmark have besides their PID 1.
 *
 *   dhcp WORD…          the first service: print when it began, then become the DHCP client (dhcp-client WORD…)
 *   boot mark NAME      print when NAME was reached
 *   boot modules LIST   load the kernel modules that the file LIST names, as our agent does
 *
 * A line goes to the console in a single write: "bench-boot: NAME at MICROSECONDS", of CLOCK_BOOTTIME, which the kernel
 * starts at 0. Static, so that a process costs as little as possible.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define CLIENT "/usr/lib/milkyway/dhcp-client"

static void mark(const char *name)
{
	struct timespec now;
	char line[128];
	int console, length;

	clock_gettime(CLOCK_BOOTTIME, &now);
	console = open("/dev/console", O_WRONLY | O_NOCTTY | O_CLOEXEC);
	length = snprintf(line, sizeof line, "\r\nbench-boot: %s at %lld\r\n", name,
			  (long long)now.tv_sec * 1000000 + now.tv_nsec / 1000);
	if (console >= 0 && write(console, line, (size_t)length) < 0)
		close(console);
}

static int load_modules(const char *list)
{
	char path[256];
	FILE *names = fopen(list, "re");

	if (!names)
		return 1;
	while (fgets(path, sizeof path, names)) {
		int module;

		path[strcspn(path, "\n")] = '\0';
		module = open(path, O_RDONLY | O_CLOEXEC);
		/* As in our agent, a module that is built in, already loaded, or without its hardware is no failure. */
		if (module < 0 || (syscall(SYS_finit_module, module, "", 0) < 0 && errno != EEXIST && errno != ENODEV))
			perror(path);
		close(module);
	}
	fclose(names);
	return 0;
}

int main(int argc, char **argv)
{
	const char *name = strrchr(argv[0], '/');

	if (argc > 2 && !strcmp(argv[1], "mark")) {
		mark(argv[2]);
		return 0;
	}
	if (argc > 2 && !strcmp(argv[1], "modules"))
		return load_modules(argv[2]);
	if (name && !strcmp(name, "/dhcp")) {
		mark("first");
		execv(CLIENT, argv);
	}
	return 127;
}
