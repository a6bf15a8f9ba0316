"""The command line of a supervisor."""

import pytest

from milkyway_agent.standalone.options import UsageError, default_runtime, read_options


def test_options_are_read_in_any_order_with_their_values_beside_them_or_after_an_equals_sign() -> None:
    options = read_options(["--start", "web", "--supervise=/etc/services", "--verbose", "--start=db", "--logs", "/var/log/x"])
    assert (options.supervise, options.logs, options.start, options.verbose) == (
        "/etc/services",
        "/var/log/x",
        ["web", "db"],
        True,
    )
    assert (options.check, options.runtime, options.adopt, options.front) == ("", "", "", False)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [(["--supervise"], "--supervise needs a value"), (["--quiet"], "no option --quiet"), (["/etc"], "no option /etc")],
)
def test_what_makes_no_sense_is_refused(arguments: list[str], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        read_options(arguments)


def test_each_directory_has_a_runtime_directory_of_its_own() -> None:
    assert default_runtime("/etc/services").endswith("/milkyway-supervise-etc-services")
    assert default_runtime("/etc/others") != default_runtime("/etc/services")
