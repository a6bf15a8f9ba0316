"""The command line of the static launcher."""

from milkyway_agent.launching.program import Program, launch_command
from milkyway_agent.launching.starter import notify_path


def test_a_plain_program_is_given_its_group_and_no_privileges() -> None:
    assert launch_command(Program(("/bin/true", "-x")), "/cg", None) == [
        "/usr/lib/milkyway/launch", "--cgroup", "/cg", "--no-new-privs", "--", "/bin/true", "-x",
    ]  # fmt: skip


def test_everything_that_is_asked_for_is_passed_on() -> None:
    program = Program(
        ("/bin/dhcp",),
        context="u:r:dhcp_t:s0",
        user=905,
        capabilities=("net_admin", "net_raw"),
        environment={"A": "b c"},
        directory="/run",
        terminal="/dev/ttyS0",
        open_files=64,
        no_new_privileges=False,
        own_mounts=True,
        empty_network=True,
    )
    assert launch_command(program, "/cg", "/run/n.sock", "/launch") == [
        "/launch", "--cgroup", "/cg", "--context", "u:r:dhcp_t:s0", "--user", "905:905",
        "--keep-caps", "0x3000", "--rlimit", "nofile=64", "--directory", "/run", "--mount-private",
        "--netns-empty", "--terminal", "/dev/ttyS0", "--env", "A=b c", "--env", "NOTIFY_SOCKET=/run/n.sock",
        "--", "/bin/dhcp",
    ]  # fmt: skip


def test_a_deployments_service_has_its_notify_socket_in_the_one_directory() -> None:
    assert notify_path("/run/milkyway/notify", "web/nginx") == "/run/milkyway/notify/web.nginx.sock"
