"""Calendar times as systemd.time(7) writes them, in UTC: reading them and finding the next one.

``parse`` accepts what systemd accepts, with the same meaning, except for three things, which it refuses: fractions of a
second, time zones other than UTC, and ``@`` with a number. ``next_after`` jumps from field to field, so even a rare time is
found by looking at its years alone. ``schedule`` decides when a time counts, and which were missed.
"""
# ruff: noqa: A005 # it is only imported by its full name

import datetime
import re
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from milkyway_formats.errors import RefusedError

FIRST_YEAR, LAST_YEAR = 1970, 2199  # MIN_YEAR and MAX_YEAR of systemd's calendarspec.c
DAY_SECONDS = 86_400
_EPOCH_DAY = datetime.date(1970, 1, 1).toordinal()
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_WEEKDAY = re.compile("|".join(f"{name}|{name[:3]}" for name in _WEEKDAYS), re.IGNORECASE)
_SHORTHANDS = {
    "minutely": "*-*-* *:*:00",
    "hourly": "*-*-* *:00:00",
    "daily": "*-*-* 00:00:00",
    "weekly": "Mon *-*-* 00:00:00",
    "monthly": "*-*-01 00:00:00",
    "quarterly": "*-01,04,07,10-01 00:00:00",
    **dict.fromkeys(("semiannually", "semi-annually", "biannually", "bi-annually"), "*-01,07-01 00:00:00"),
    **dict.fromkeys(("yearly", "annually", "anually"), "*-01-01 00:00:00"),
}


class _Field(NamedTuple):
    """A field's name, and the lowest and highest value that it may have."""

    name: str
    lowest: int
    highest: int


_YEAR = _Field("year", FIRST_YEAR, LAST_YEAR)
_MONTH = _Field("month", 1, 12)
_DAY = _Field("day", 1, 31)
_LAST_DAY = _Field("day from the end of the month", 1, 28)  # every month has them
_HOUR = _Field("hour", 0, 23)
_MINUTE = _Field("minute", 0, 59)
_SECOND = _Field("second", 0, 59)


class Calendar(NamedTuple):
    """The values that each field of a time may have, ascending. A time matches when all of its fields do.

    ``weekdays``: 0 is Monday. ``days``: of the month, or, where ``from_end``, counted from its end (1 is the last).
    """

    weekdays: tuple[int, ...]
    years: tuple[int, ...]
    months: tuple[int, ...]
    days: tuple[int, ...]
    from_end: bool
    hours: tuple[int, ...]
    minutes: tuple[int, ...]
    seconds: tuple[int, ...]


class _Piece(NamedTuple):
    """One of the values between commas, as written, and its position in the text."""

    start: int
    stop: int | None
    step: int
    position: int


class _Reader:
    """A position in the text. Each method takes what it is named for and moves on, or refuses."""

    def __init__(self, text: str, whole: str) -> None:
        self.text = text
        self.whole = whole
        self.position = 0

    def refuse(self, why: str, position: int | None = None) -> NoReturn:
        place = self.position if position is None else position
        raise RefusedError(f"cannot read times {self.whole!r}: {why} (character {place + 1})")

    def at_end(self) -> bool:
        return self.position == len(self.text)

    def sees(self, text: str) -> bool:
        return self.text.startswith(text, self.position)

    def takes(self, text: str) -> bool:
        """Move past *text* if it is next."""
        found = self.sees(text)
        self.position += len(text) if found else 0
        return found

    def spaces(self) -> bool:
        found = self.sees(" ")
        while self.takes(" "):
            pass
        return found

    def number(self) -> int:
        digits = re.compile("[0-9]+").match(self.text, self.position)
        if digits is None:
            following = self.text[self.position : self.position + 1]
            self.refuse(f"a number is missing before {following!r}" if following else "it ends too early")
        self.position = digits.end()
        if re.compile(r"\.[0-9]").match(self.text, self.position):
            self.refuse("fractions of a second are not supported")
        return int(digits[0])

    def chain(self) -> list[_Piece] | None:
        """Take one field: "*" (None), or values, ranges and repetitions separated by commas."""
        if self.takes("*"):
            if self.sees("/"):
                self.refuse("a repetition needs a value to start from, as in 0/5")
            return None
        pieces = [self._piece()]
        while self.takes(","):
            pieces.append(self._piece())
        return pieces

    def _piece(self) -> _Piece:
        position = self.position
        start, stop, step = self.number(), None, 0
        if self.takes(".."):
            stop, step = self.number(), 1
        if self.takes("/"):
            step = self.number()
            if step == 0:
                self.refuse("a repetition of 0 never moves on", self.position - 1)
        return _Piece(start, stop, step, position)

    def weekdays(self) -> tuple[int, ...]:
        """Take the weekdays at the beginning, if there are any, and the spaces after them."""
        found: set[int] = set()
        since: int | None = None
        while True:
            name = _WEEKDAY.match(self.text, self.position)
            if name is None:
                if found:
                    self.refuse("a weekday is missing")
                return tuple(range(7))
            day = [weekday[:3] for weekday in _WEEKDAYS].index(name[0][:3].lower())
            if since is not None and since > day:
                self.refuse("a range of weekdays goes from Monday towards Sunday")
            found.update(range(day if since is None else since, day + 1))
            self.position = name.end()
            ranged = self.takes("..") or self.takes("-")
            if ranged and since is not None:
                self.refuse("a range of weekdays has two ends", self.position - 1)
            since = day if ranged else None
            if not ranged and not self.takes(",") and not self.at_end() and not self.sees(" "):
                self.refuse("a weekday ends before a space, a comma or ..")
            if self.at_end() or self.spaces():
                if ranged:
                    self.refuse("a range of weekdays lacks its end")
                return tuple(sorted(found))


def parse(text: str) -> Calendar:
    """Return the times that *text* means. Raises RefusedError, which says what is wrong with it, and where."""
    name, _, zone = text.rpartition(" ")
    body = name.rstrip(" ") if name and zone.upper() == "UTC" else text
    if re.search(r" [A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+/-]+)?\Z", body):
        raise RefusedError(f"cannot read times {text!r}: times are in UTC, not in {body.rpartition(' ')[2]}")
    reader = _Reader(_SHORTHANDS.get(body.lower(), body), text)
    if reader.at_end():
        reader.refuse("it is empty")
    weekdays = reader.weekdays()
    years, months, days, from_end = _read_date(reader)
    hours, minutes, seconds = _read_time(reader)
    if not reader.at_end():
        reader.refuse(f"{reader.text[reader.position :]!r} is too much")
    day_field = _LAST_DAY if from_end else _DAY
    return Calendar(
        weekdays,
        _values(reader, _YEAR, _whole_years(years)),
        _values(reader, _MONTH, months),
        _values(reader, day_field, days) if days is not None else tuple(range(1, 32)),
        from_end and days is not None,
        _values(reader, _HOUR, hours),
        _values(reader, _MINUTE, minutes),
        _values(reader, _SECOND, seconds),
    )


_Chain = list[_Piece] | None


def _read_date(reader: _Reader) -> tuple[_Chain, _Chain, _Chain, bool]:
    """Take year-month-day or month-day, and the spaces after it; nothing if a time comes next."""
    begin = reader.position
    if reader.at_end():
        return None, None, None, False
    first = reader.chain()
    if reader.sees(":"):
        reader.position = begin
        return None, None, None, False
    from_end = reader.takes("~")
    if not from_end and not reader.takes("-"):
        reader.refuse("a date or a time of the day is expected, as 12-31 or 10:00")
    second = reader.chain()
    if reader.at_end() or reader.spaces():
        return None, first, second, from_end
    if from_end:
        reader.refuse("after ~ comes the day, and nothing more of the date")
    from_end = reader.takes("~")
    if not from_end and not reader.takes("-"):
        reader.refuse("- or ~ and a day are expected")
    third = reader.chain()
    if not reader.at_end() and not reader.spaces():
        reader.refuse("a date ends before a space")
    return first, second, third, from_end


def _read_time(reader: _Reader) -> tuple[_Chain, _Chain, _Chain]:
    """Take hour:minute:second or hour:minute; midnight if there is nothing more."""
    zero = [_Piece(0, None, 0, reader.position)]
    if reader.at_end():
        return zero, zero, zero
    hours = reader.chain()
    if not reader.takes(":"):
        reader.refuse("a time of the day is expected, as 10:00")
    minutes = reader.chain()
    if reader.at_end():
        return hours, minutes, zero
    if not reader.takes(":"):
        reader.refuse("a time of the day has : between its fields")
    return hours, minutes, reader.chain()


def _whole_years(years: _Chain) -> _Chain:
    """Return *years* with four digits: of two digits, 70 to 99 are of the last century (calendarspec.c, fix_year)."""

    def whole(year: int) -> int:
        return year + (2000 if year < 70 else 1900) if year < 100 else year

    if years is None:
        return None
    return [year._replace(start=whole(year.start), stop=None if year.stop is None else whole(year.stop)) for year in years]


def _values(reader: _Reader, field: _Field, chain: _Chain) -> tuple[int, ...]:
    """Return the values that *chain* means for *field*. Refuses values outside it and repetitions without a second value."""
    if chain is None:
        return tuple(range(field.lowest, field.highest + 1))
    found: set[int] = set()
    for start, stop, step, position in chain:
        for value in (start, start if stop is None else stop):
            if not field.lowest <= value <= field.highest:
                reader.refuse(f"{field.name} {value} is not from {field.lowest} to {field.highest}", position)
        if step > field.highest - field.lowest:
            reader.refuse(f"no {field.name} is {step} after another", position)
        if stop is not None:
            if stop < start:
                reader.refuse(f"{field.name} {start}..{stop} goes backwards", position)
            found.update(range(start, stop + 1, step))
        elif field is _LAST_DAY:
            found.update(range(start, 0, -(step or start)))  # a repetition goes on towards the end of the month
        else:
            if start + step > field.highest:
                reader.refuse(f"no {field.name} is {step} after {start}", position)
            found.update(range(start, field.highest + 1, step or field.highest + 1))
    return tuple(sorted(found))


def next_after(calendar: Calendar, unix_seconds: int) -> int | None:
    """Return the first time strictly after *unix_seconds* (since 1970, UTC); None if there is none until the end of 2199."""
    day, second_of_day = divmod(max(unix_seconds + 1, 0), DAY_SECONDS)
    if day + _EPOCH_DAY > datetime.date(LAST_YEAR, 12, 31).toordinal():
        return None
    found = _next_day(calendar, day)
    if found == day:
        second = _next_second(calendar, second_of_day)
        if second is not None:
            return day * DAY_SECONDS + second
        found = _next_day(calendar, day + 1)
    if found is None:
        return None
    first = calendar.hours[0] * 3600 + calendar.minutes[0] * 60 + calendar.seconds[0]
    return found * DAY_SECONDS + first


def _next_day(calendar: Calendar, day: int) -> int | None:
    """Return the first matching day from *day* (days since 1970) on."""
    begin = datetime.date.fromordinal(day + _EPOCH_DAY)
    for year in _from(calendar.years, begin.year):
        for month in _from(calendar.months, begin.month if year == begin.year else 1):
            month_starts = datetime.date(year, month, 1).toordinal()
            month_ends = datetime.date(year + month // 12, month % 12 + 1, 1).toordinal()  # the next month's first
            ordinals = (
                [month_ends - day for day in reversed(calendar.days)]
                if calendar.from_end
                else [month_starts + day - 1 for day in calendar.days]
            )
            for ordinal in ordinals:
                # 0001-01-01, whose ordinal is 1, was a Monday
                if max(month_starts, begin.toordinal()) <= ordinal < month_ends and (ordinal + 6) % 7 in calendar.weekdays:
                    return ordinal - _EPOCH_DAY
    return None


def _next_second(calendar: Calendar, second_of_day: int) -> int | None:
    """Return the first matching second of a day from *second_of_day* on."""
    hour, minute, second = second_of_day // 3600, second_of_day // 60 % 60, second_of_day % 60
    for found_hour in _from(calendar.hours, hour):
        for found_minute in _from(calendar.minutes, minute if found_hour == hour else 0):
            same_minute = (found_hour, found_minute) == (hour, minute)
            for found_second in _from(calendar.seconds, second if same_minute else 0):
                return found_hour * 3600 + found_minute * 60 + found_second
    return None


def _from(values: Sequence[int], lowest: int) -> Sequence[int]:
    return values[bisect_left(values, lowest) :]
