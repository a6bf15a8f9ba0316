/*
 * What the initramfs executes as PID 1 of the root with systemd: it says when it began, has SELinux no longer enforce (the
 * policy is not systemd's: every domain is permissive there anyway), and executes systemd.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <sys/mount.h>
#include <time.h>
#include <unistd.h>

#define SYSTEMD "/usr/lib/systemd/systemd"

int main(void)
{
	char *arguments[] = { SYSTEMD, NULL }, *environment[] = { NULL };
	struct timespec now;
	int enforce;

	clock_gettime(CLOCK_BOOTTIME, &now);
	printf("milkyway: PID 1 at %ld.%03ld s\n", (long)now.tv_sec, now.tv_nsec / 1000000);
	fflush(stdout);
	mount("sysfs", "/sys", "sysfs", 0, NULL);
	mount("selinuxfs", "/sys/fs/selinux", "selinuxfs", 0, NULL);
	enforce = open("/sys/fs/selinux/enforce", O_WRONLY | O_CLOEXEC);
	if (enforce < 0 || write(enforce, "0", 1) != 1)
		perror("cannot stop enforcing");
	if (enforce >= 0)
		close(enforce);
	umount2("/sys/fs/selinux", MNT_DETACH);
	execve(SYSTEMD, arguments, environment);
	perror("cannot execute systemd");
	return 1;
}
