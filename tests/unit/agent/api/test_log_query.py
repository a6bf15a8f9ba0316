"""What a log query may be."""

import pytest

from milkyway_agent.api.log_query import LogQuery, MalformedRequestError, read_log_query


@pytest.mark.parametrize(
    ("parameters", "query"),
    [
        ({}, LogQuery()),
        ({"service": "web/nginx", "follow": "1", "lines": "5"}, LogQuery(service="web/nginx", follow=True, lines=5)),
        ({"deployment": "web", "follow": "0", "since": "17"}, LogQuery(deployment="web", since=17)),
        ({"names": "web,dhcp", "until": "18"}, LogQuery(names=["web", "dhcp"], until=18)),
        ({"priority": "err"}, LogQuery(priority=3)),
        ({"priority": "0"}, LogQuery(priority=0)),
    ],
)
def test_a_log_query_is_read_from_the_url(parameters: dict[str, str], query: LogQuery) -> None:
    assert read_log_query(parameters) == query


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"follow": "yes"}, "follow must be 0 or 1"),
        ({"lines": "-1"}, "lines must be a number"),
        ({"lines": "\u0661"}, "lines must be a number"),
        ({"since": "1" * 13}, "since must be a number"),
        ({"lines": "10001"}, "lines must be a number from 0 to 10000$"),
        ({"since": "253402300800"}, "since must be a number from 0 to 253402300799$"),
        ({"colour": "red"}, "unknown parameter 'colour'$"),
        ({"names": "web,,dhcp"}, "names must be like web,web/nginx,dhcp$"),
        ({"names": ""}, "names must be like"),
        ({"priority": "8"}, "priority must be 0 to 7 or one of emerg, alert, crit, err, warning, notice, info, debug$"),
        ({"priority": ""}, "priority must be 0 to 7"),
        ({"priority": "01"}, "priority must be 0 to 7"),
        ({"since": "5", "until": "5"}, "until must be later than since$"),
        ({"until": "5", "follow": "1"}, "follow goes on for ever, until does not$"),
    ],
)
def test_a_log_query_out_of_bounds_is_refused(parameters: dict[str, str], reason: str) -> None:
    with pytest.raises(MalformedRequestError, match=f"^cannot read logs: {reason}"):
        read_log_query(parameters)
