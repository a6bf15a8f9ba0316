/* A service that notes when it began and then only waits; and the starter that notes when the supervisor was executed.
 *
 *   trivial FILE INDEX           be service INDEX: fill its slot in FILE, then wait for ever
 *   trivial FILE exec COMMAND…   note the time in FILE's head and execute COMMAND
 *
 * FILE is mapped shared and read by bench/supervisor/slots.py, which has the same layout: a head of 64 bytes (when the
 * supervisor was executed; how many services began since), then 16 bytes per service. Times are CLOCK_MONOTONIC in ns.
 * Static, so that it costs as little as a process can: the supervisor is what is measured.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct head {
	uint64_t executed_ns;
	uint64_t births;
	uint64_t unused[6];
};

struct slot {
	uint64_t born_ns;
	uint32_t pid;
	uint32_t births;
};

static uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int main(int argc, char **argv)
{
	struct stat about;
	if (argc < 3)
		return 100;
	int file = open(argv[1], O_RDWR | O_CLOEXEC);
	if (file < 0 || fstat(file, &about))
		return 111;
	char *memory = mmap(NULL, (size_t)about.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	close(file);
	if (memory == MAP_FAILED)
		return 111;
	struct head *head = (struct head *)memory;
	if (!strcmp(argv[2], "exec") && argc > 3) {
		head->executed_ns = now();
		execv(argv[3], argv + 3);
		return 127;
	}
	size_t index = strtoul(argv[2], NULL, 10);
	if (sizeof(struct head) + (index + 1) * sizeof(struct slot) > (size_t)about.st_size)
		return 100;
	struct slot *slot = (struct slot *)(memory + sizeof(struct head)) + index;
	slot->born_ns = now();
	slot->pid = (uint32_t)getpid();
	/* After the other two: a reader that sees the count sees them. */
	__atomic_add_fetch(&slot->births, 1, __ATOMIC_RELEASE);
	__atomic_add_fetch(&head->births, 1, __ATOMIC_RELEASE);
	for (;;)
		pause();
}
