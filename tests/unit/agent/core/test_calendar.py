"""Calendar times: they mean what systemd means by them, and the next one is really the next."""

import datetime
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milkyway_agent.core.calendar import Calendar, next_after, parse
from milkyway_formats.errors import RefusedError

BEFORE_THE_LEAP_DAY = 1_709_164_799  # 2024-02-28 23:59:59
IN_THE_AFTERNOON = 1_710_510_453  # 2024-03-15 13:47:33, a Friday

# What systemd 252 (Debian bookworm) answers, with TZ=UTC:
# systemd-analyze calendar --base-time=@1709164799 --iterations=3 EXPRESSION
SYSTEMD_SAYS = [
    ("minutely", "2024-02-29 00:00:00, 2024-02-29 00:01:00, 2024-02-29 00:02:00"),
    ("hourly", "2024-02-29 00:00:00, 2024-02-29 01:00:00, 2024-02-29 02:00:00"),
    ("daily", "2024-02-29 00:00:00, 2024-03-01 00:00:00, 2024-03-02 00:00:00"),
    ("weekly", "2024-03-04 00:00:00, 2024-03-11 00:00:00, 2024-03-18 00:00:00"),
    ("monthly", "2024-03-01 00:00:00, 2024-04-01 00:00:00, 2024-05-01 00:00:00"),
    ("quarterly", "2024-04-01 00:00:00, 2024-07-01 00:00:00, 2024-10-01 00:00:00"),
    ("semiannually", "2024-07-01 00:00:00, 2025-01-01 00:00:00, 2025-07-01 00:00:00"),
    ("yearly", "2025-01-01 00:00:00, 2026-01-01 00:00:00, 2027-01-01 00:00:00"),
    ("Annually", "2025-01-01 00:00:00, 2026-01-01 00:00:00, 2027-01-01 00:00:00"),
    ("daily UTC", "2024-02-29 00:00:00, 2024-03-01 00:00:00, 2024-03-02 00:00:00"),
    ("Thu,Fri 2012-*-1,5 11:12:13", ""),
    ("Thu,Fri *-*-1,5 11:12:13", "2024-03-01 11:12:13, 2024-04-05 11:12:13, 2024-07-05 11:12:13"),
    ("*-02~03", "2025-02-26 00:00:00, 2026-02-26 00:00:00, 2027-02-26 00:00:00"),
    ("Mon *-05~07/1", "2024-05-27 00:00:00, 2025-05-26 00:00:00, 2026-05-25 00:00:00"),
    ("*-*~01", "2024-02-29 00:00:00, 2024-03-31 00:00:00, 2024-04-30 00:00:00"),
    ("*-*~1..7", "2024-02-29 00:00:00, 2024-03-25 00:00:00, 2024-03-26 00:00:00"),
    ("Fri *-*~7/1 17:00", "2024-03-29 17:00:00, 2024-04-26 17:00:00, 2024-05-31 17:00:00"),
    ("*-*~10/3 6:30", "2024-02-29 06:30:00, 2024-03-22 06:30:00, 2024-03-25 06:30:00"),
    ("Sat,Thu,Mon..Wed,Sat..Sun", "2024-02-29 00:00:00, 2024-03-02 00:00:00, 2024-03-03 00:00:00"),
    ("Mon,Sun 26-*-* 2,1:23", "2026-01-04 01:23:00, 2026-01-04 02:23:00, 2026-01-05 01:23:00"),
    ("Wed *-1", "2024-05-01 00:00:00, 2025-01-01 00:00:00, 2025-10-01 00:00:00"),
    ("Wed..Wed,Wed *-1", "2024-05-01 00:00:00, 2025-01-01 00:00:00, 2025-10-01 00:00:00"),
    ("Wed, 17:48", "2024-03-06 17:48:00, 2024-03-13 17:48:00, 2024-03-20 17:48:00"),
    ("Wed..Sat,Tue 32-10-15 1:2:3", "2032-10-15 01:02:03"),
    ("*-*-7 0:0:0", "2024-03-07 00:00:00, 2024-04-07 00:00:00, 2024-05-07 00:00:00"),
    ("10-15", "2024-10-15 00:00:00, 2025-10-15 00:00:00, 2026-10-15 00:00:00"),
    ("monday *-12-* 17:00", "2024-12-02 17:00:00, 2024-12-09 17:00:00, 2024-12-16 17:00:00"),
    ("Mon,Fri *-*-3,1,2 *:30:45", "2024-03-01 00:30:45, 2024-03-01 01:30:45, 2024-03-01 02:30:45"),
    ("12,14,13,12:20,10,30", "2024-02-29 12:10:00, 2024-02-29 12:20:00, 2024-02-29 12:30:00"),
    ("12..14:10,20,30", "2024-02-29 12:10:00, 2024-02-29 12:20:00, 2024-02-29 12:30:00"),
    ("mon,fri *-1/2-1,3 *:30:45", "2024-03-01 00:30:45, 2024-03-01 01:30:45, 2024-03-01 02:30:45"),
    ("03-05 08:05:40", "2024-03-05 08:05:40, 2025-03-05 08:05:40, 2026-03-05 08:05:40"),
    ("08:05:40", "2024-02-29 08:05:40, 2024-03-01 08:05:40, 2024-03-02 08:05:40"),
    ("05:40", "2024-02-29 05:40:00, 2024-03-01 05:40:00, 2024-03-02 05:40:00"),
    ("Sat,Sun 12-05 08:05:40", "2026-12-05 08:05:40, 2027-12-05 08:05:40, 2032-12-05 08:05:40"),
    ("Sat,Sun 08:05:40", "2024-03-02 08:05:40, 2024-03-03 08:05:40, 2024-03-09 08:05:40"),
    ("2003-03-05 05:40", ""),
    ("2053-03-05 05:40 UTC", "2053-03-05 05:40:00"),
    ("2043-02..04-05", "2043-02-05 00:00:00, 2043-03-05 00:00:00, 2043-04-05 00:00:00"),
    ("*:2/3", "2024-02-29 00:02:00, 2024-02-29 00:05:00, 2024-02-29 00:08:00"),
    ("*:0/15", "2024-02-29 00:00:00, 2024-02-29 00:15:00, 2024-02-29 00:30:00"),
    ("*-*-* *:*:0/20", "2024-02-29 00:00:00, 2024-02-29 00:00:20, 2024-02-29 00:00:40"),
    ("*-2-29", "2024-02-29 00:00:00, 2028-02-29 00:00:00, 2032-02-29 00:00:00"),
    ("Mon *-2-29 12:00", "2044-02-29 12:00:00, 2072-02-29 12:00:00, 2112-02-29 12:00:00"),
    ("*-02-30", ""),
    ("2100-2-29", ""),
    ("2023/4-1-1", "2027-01-01 00:00:00, 2031-01-01 00:00:00, 2035-01-01 00:00:00"),
    ("*-4,6,9,11-31", ""),
    ("*-*-31 23:59:59", "2024-03-31 23:59:59, 2024-05-31 23:59:59, 2024-07-31 23:59:59"),
    ("Mon-Fri 9..17/2:00", "2024-02-29 09:00:00, 2024-02-29 11:00:00, 2024-02-29 13:00:00"),
    ("*-*-* *:*:*", "2024-02-29 00:00:00, 2024-02-29 00:00:01, 2024-02-29 00:00:02"),
    ("2199-12-31 23:59:59", "2199-12-31 23:59:59"),
    ("70-1-1", ""),
    ("Sun *-10~01..07 03:00", "2024-10-27 03:00:00, 2025-10-26 03:00:00, 2026-10-25 03:00:00"),
    ("*-1..12/5-10..20/5 0/6:0/20", "2024-06-10 00:00:00, 2024-06-10 00:20:00, 2024-06-10 00:40:00"),
    ("23:59:50..59/3", "2024-02-29 23:59:50, 2024-02-29 23:59:53, 2024-02-29 23:59:56"),
    ("6/2,9-26/4 20:0", "2024-06-26 20:00:00, 2024-06-30 20:00:00, 2024-08-26 20:00:00"),
    ("*-*-1..3/5 4..5/9:30", "2024-03-01 04:30:00, 2024-04-01 04:30:00, 2024-05-01 04:30:00"),
]
# The same with --base-time=@1710510453
SYSTEMD_SAYS_IN_THE_AFTERNOON = [
    ("hourly", "2024-03-15 14:00:00, 2024-03-15 15:00:00, 2024-03-15 16:00:00"),
    ("*:2/3", "2024-03-15 13:50:00, 2024-03-15 13:53:00, 2024-03-15 13:56:00"),
    ("*:5", "2024-03-15 14:05:00, 2024-03-15 15:05:00, 2024-03-15 16:05:00"),
    ("14,18:0,47:33", "2024-03-15 14:00:33, 2024-03-15 14:47:33, 2024-03-15 18:00:33"),
    ("13..15:10,20,47:30,50", "2024-03-15 13:47:50, 2024-03-15 14:10:30, 2024-03-15 14:10:50"),
    ("*:*:10/11", "2024-03-15 13:47:43, 2024-03-15 13:47:54, 2024-03-15 13:48:10"),
    ("13:47", "2024-03-16 13:47:00, 2024-03-17 13:47:00, 2024-03-18 13:47:00"),
    ("13:48", "2024-03-15 13:48:00, 2024-03-16 13:48:00, 2024-03-17 13:48:00"),
    ("Fri 13:47:33", "2024-03-22 13:47:33, 2024-03-29 13:47:33, 2024-04-05 13:47:33"),
    ("9..17/4:20,50:3", "2024-03-15 13:50:03, 2024-03-15 17:20:03, 2024-03-15 17:50:03"),
    ("69-1-1", "2069-01-01 00:00:00"),
    ("59-12-31 1:1", "2059-12-31 01:01:00"),
    ("Thu,Fri *:30", "2024-03-15 14:30:00, 2024-03-15 15:30:00, 2024-03-15 16:30:00"),
]


def seconds(text: str) -> int:
    return int(datetime.datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=datetime.UTC).timestamp())


def following(calendar: Calendar, at: int) -> Iterator[int]:
    found = next_after(calendar, at)
    while found is not None:
        yield found
        found = next_after(calendar, found)


@pytest.mark.parametrize(
    ("base", "text", "expected"),
    [(BEFORE_THE_LEAP_DAY, *row) for row in SYSTEMD_SAYS] + [(IN_THE_AFTERNOON, *row) for row in SYSTEMD_SAYS_IN_THE_AFTERNOON],
)
def test_the_next_three_times_are_those_that_systemd_finds(base: int, text: str, expected: str) -> None:
    times = [seconds(time) for time in expected.split(", ")] if expected else []
    found = [time for time, _ in zip(following(parse(text), base), range(3), strict=False)]
    assert found == times


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is empty (character 1)"),
        (" 10:00", "a number is missing before ' ' (character 1)"),
        ("10:00 ", "(character 6)"),
        ("12", "a date or a time of the day is expected, as 12-31 or 10:00 (character 3)"),
        ("Mon 25:00", "hour 25 is not from 0 to 23 (character 5)"),
        ("*:60", "minute 60 is not from 0 to 59 (character 3)"),
        ("*:*:60", "second 60 is not from 0 to 59 (character 5)"),
        ("2024-13-1", "month 13 is not from 1 to 12 (character 6)"),
        ("*-*-32", "day 32 is not from 1 to 31 (character 5)"),
        ("*-*~29", "day from the end of the month 29 is not from 1 to 28 (character 5)"),
        ("2200-1-1", "year 2200 is not from 1970 to 2199 (character 1)"),
        ("*:*/5", "a repetition needs a value to start from, as in 0/5 (character 4)"),
        ("*:0/0", "a repetition of 0 never moves on (character 5)"),
        ("*:50/30", "no minute is 30 after 50 (character 3)"),
        ("*:0/60", "no minute is 60 after another (character 3)"),
        ("17..9:00", "hour 17..9 goes backwards (character 1)"),
        ("*:*:0.5", "fractions of a second are not supported (character 6)"),
        ("*:*:0/1.5", "fractions of a second are not supported (character 8)"),
        ("Fri..Mon", "a range of weekdays goes from Monday towards Sunday (character 6)"),
        ("Mon..Wed..Fri", "a range of weekdays has two ends (character 10)"),
        ("Mon..", "a range of weekdays lacks its end (character 6)"),
        ("Mon,Tu", "a weekday is missing (character 5)"),
        ("Monda 10:00", "a weekday ends before a space, a comma or .. (character 4)"),
        ("*~1-1", "after ~ comes the day, and nothing more of the date (character 4)"),
        ("1-2-3-4", "a date ends before a space (character 6)"),
        ("1-2-", "it ends too early (character 5)"),
        ("10:00:00:00", "':00' is too much (character 9)"),
        ("10:00 Europe/Berlin", "times are in UTC, not in Europe/Berlin"),
        ("daily CET", "times are in UTC, not in CET"),
        ("fortnightly", "a number is missing before 'f' (character 1)"),
        ("@1395716396", "a number is missing before '@' (character 1)"),
        ("10:00\n", None),
        ("\u0661\u0660:00", None),
    ],
)
def test_the_error_says_what_is_wrong_and_where(text: str, why: str | None) -> None:
    with pytest.raises(RefusedError) as caught:
        parse(text)
    assert str(caught.value).startswith(f"cannot read times {text!r}: ")
    assert why is None or str(caught.value).endswith(why)


@pytest.mark.parametrize(
    ("text", "in_full"),
    [
        ("weekly", "Mon *-*-* 00:00:00 UTC"),
        ("Sat,Thu,Mon..Wed,Sat..Sun", "Mon..Thu,Sat..Sun *-*-* 00:00:00 UTC"),
        ("*:0/15", "*-*-* *:00..45/15:00 UTC"),
        ("1..3/5:0", "*-*-* 01:00:00 UTC"),
        ("*-*~1..7 6:5:4", "*-*~01..07 06:05:04 UTC"),
        ("*-*~1..28", "*-*~01..28 00:00:00 UTC"),
        ("24-1,2,3,7-*", "2024-01..03,07-* 00:00:00 UTC"),
        ("*-*~*", "*-*-* 00:00:00 UTC"),
        ("*-*", "*-*-* 00:00:00 UTC"),
    ],
)
def test_the_same_times_are_read_from_a_short_expression_and_a_full_one(text: str, in_full: str) -> None:
    assert parse(text) == parse(in_full)


def test_the_examples_of_the_reference_are_true() -> None:
    text = (Path(__file__).parents[4] / "docs/reference/calendar.md").read_text(encoding="utf-8")
    examples = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|$", text, re.MULTILINE)
    assert len(examples) > 10
    for expression, in_full in examples:
        assert parse(expression) == parse(in_full)


def pieces(lowest: int, highest: int) -> st.SearchStrategy[str]:
    """One field as people may write it."""
    value = st.integers(lowest, highest)
    single = value.map(str)
    ranged = st.tuples(value, value).map(lambda pair: f"{min(pair)}..{max(pair)}")
    repeated = st.tuples(st.just(lowest), st.integers(1, highest - lowest)).map(lambda pair: f"{pair[0]}/{pair[1]}")
    both = st.tuples(ranged, st.integers(1, highest - lowest)).map(lambda pair: f"{pair[0]}/{pair[1]}")
    return st.just("*") | st.lists(single | ranged | repeated | both, min_size=1, max_size=3).map(",".join)


WEEKDAYS = st.sampled_from(["", "", "Mon ", "Sat,Sun ", "Mon..Fri ", "tue,thursday ", "Sun "])
YEARS = st.sampled_from(["*", "2024", "2023/4", "2025..2031/3", "2026,2090"])
DATES = st.tuples(WEEKDAYS, YEARS, pieces(1, 12), st.just("-") | st.just("~")).flatmap(
    lambda parts: pieces(1, 28 if parts[3] == "~" else 31).map(lambda day: f"{parts[0]}{parts[1]}-{parts[2]}{parts[3]}{day}")
)
TIMES = st.tuples(pieces(0, 23), pieces(0, 59), pieces(0, 59)).map(":".join)
CALENDARS = st.tuples(DATES, TIMES).map(lambda parts: parse(" ".join(parts)))
INSTANTS = st.integers(1_600_000_000, 2_000_000_000)


def day_matches(calendar: Calendar, date: datetime.date) -> bool:
    month_ends = (date.replace(day=28) + datetime.timedelta(days=4)).replace(day=1)
    day = (month_ends - date).days if calendar.from_end else date.day
    return (
        date.year in calendar.years
        and date.month in calendar.months
        and day in calendar.days
        and date.weekday() in calendar.weekdays
    )


def matches(calendar: Calendar, at: int) -> bool:
    """Tell whether a second is one of the times, by looking at it alone: the reference."""
    time = datetime.datetime.fromtimestamp(at, datetime.UTC)
    clock = time.hour in calendar.hours and time.minute in calendar.minutes and time.second in calendar.seconds
    return clock and day_matches(calendar, time.date())


@settings(max_examples=80, deadline=None)
@given(calendar=TIMES.map(parse) | CALENDARS, at=INSTANTS)
def test_within_minutes_it_finds_what_stepping_finds(calendar: Calendar, at: int) -> None:
    window = 700
    stepped = next((second for second in range(at + 1, at + window) if matches(calendar, second)), None)
    found = next_after(calendar, at)
    assert (found if found is not None and found < at + window else None) == stepped


@settings(max_examples=60, deadline=None)
@given(text=DATES, at=INSTANTS)
def test_within_years_it_finds_the_day_that_stepping_finds(text: str, at: int) -> None:
    calendar = parse(text)
    days = 500
    first = at // 86_400 + 1  # at 00:00:00 of a day, that day is over
    epoch = datetime.date(1970, 1, 1)
    stepped = next(
        (day for day in range(first, first + days) if day_matches(calendar, epoch + datetime.timedelta(days=day))), None
    )
    found = next_after(calendar, at)
    assert (found // 86_400 if found is not None and found < (first + days) * 86_400 else None) == stepped


@settings(max_examples=150, deadline=None)
@given(calendar=CALENDARS, at=INSTANTS, chance=st.floats(0, 1, exclude_max=True))
def test_the_next_time_is_one_and_none_lies_before_it(calendar: Calendar, at: int, chance: float) -> None:
    found = next_after(calendar, at)
    if found is not None:
        assert found > at
        assert matches(calendar, found)
        between = at + 1 + int((found - at - 1) * chance)
        assert between == found or not matches(calendar, between)
        assert next_after(calendar, found - 1) == found


def test_every_second_of_the_last_year_has_an_end() -> None:
    every = parse("*:*:*")
    end = seconds("2199-12-31 23:59:59")
    assert next_after(every, end - 1) == end
    assert next_after(every, end) is None
    assert next_after(every, end + 86_400 * 400) is None
    assert next_after(every, -5) == 0


@settings(max_examples=500, deadline=None)
@given(st.text(alphabet="MonTueSun0123459*-~:/.,@ UTCdaily", max_size=24))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        calendar = parse(text)
    except RefusedError:
        return
    for values in (calendar.years, calendar.months, calendar.days, calendar.hours, calendar.minutes, calendar.seconds):
        assert values and list(values) == sorted(set(values))
