/* Programs that write what, or as, nobody should. */
#include "behaviour.h"

#include <fcntl.h>
#include <time.h>

static void put(int fd, const void *data, size_t size)
{
	if (write(fd, data, size) < 0)
		broken("write");
}

static _Noreturn void flood(int fd)
{
	static const char line[] = "many words to fill the pipe quickly\n";

	for (;;)
		put(fd, line, sizeof line - 1);
}

static void floods_standard_output(void)
{
	flood(1);
}

static void floods_standard_error(void)
{
	flood(2);
}

static void writes_one_endless_line(void)
{
	static char words[65536];

	memset(words, 'x', sizeof words);
	for (;;)
		put(1, words, sizeof words);
}

static void writes_noise(void)
{
	unsigned char noise[256];

	for (int byte = 0; byte < 256; byte++)
		noise[byte] = (unsigned char)byte;
	for (int times = 0; times < 4; times++)
		put(1, noise, sizeof noise);
	put(1, "\n", 1);
	put(1, "after the noise\n", 16);
	rest();
}

static void dies_within_a_line(void)
{
	put(1, "half a li", 9);
	raise(SIGKILL);
}

static void writes_byte_by_byte(void)
{
	for (const char *byte = "slowly\n"; *byte; byte++)
		put(1, byte, 1);
	rest();
}

static void closes_its_output(void)
{
	put(1, "last words\n", 11);
	close(1);
	close(2);
	tell("silent");
	rest();
}

static void closes_all_descriptors(void)
{
	for (int fd = 0; fd < 1024; fd++)
		close(fd);
	tell("bare");
	rest();
}

static void opens_a_thousand_descriptors(void)
{
	for (int opened = 0; opened < 1000; opened++)
		if (open("/dev/null", O_RDONLY) < 0)
			broken("open");
	tell("greedy");
	rest();
}

static long microseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* Reads its own pipe: what the supervisor is told to be there may be gone when it looks. Some of these pauses fall
 * between the two.
 */
static void steals_its_own_output(void)
{
	char stolen[16];
	int fd = open("/proc/self/fd/1", O_RDONLY | O_NONBLOCK);

	if (fd < 0)
		broken("open");
	for (long times = 0; times < 6000; times++) {
		long until = microseconds() + times % 150;

		put(1, "x", 1);
		while (microseconds() < until)
			;
		while (read(fd, stolen, sizeof stolen) > 0)
			;
		usleep(50);
	}
	put(1, "\nthe thief is done\n", 19);
	rest();
}

const struct behaviour behaviours[] = {
	DOES(floods_standard_output), DOES(floods_standard_error), DOES(writes_one_endless_line), DOES(writes_noise),
	DOES(dies_within_a_line), DOES(writes_byte_by_byte), DOES(closes_its_output), DOES(closes_all_descriptors),
	DOES(opens_a_thousand_descriptors), DOES(steals_its_own_output), { 0 },
};
