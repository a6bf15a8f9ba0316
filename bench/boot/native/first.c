/* The first service of bench/boot: tells the console when it began, on the clock that starts with the kernel, and waits. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

int main(void)
{
	struct timespec now;
	int console;

	clock_gettime(CLOCK_BOOTTIME, &now);
	console = open("/dev/console", O_WRONLY | O_NOCTTY | O_CLOEXEC);
	dprintf(console, "first service at %ld.%03ld s\n", (long)now.tv_sec, now.tv_nsec / 1000000);
	for (;;)
		pause();
}
