"""A timer: when a service is started by the clock."""

from typing import Annotated

from msgspec import Meta, field

from milkyway_formats.codec import Document

Milliseconds = Annotated[int, Meta(ge=0, le=86_400_000, description="milliseconds")]
LongMilliseconds = Annotated[int, Meta(ge=0, le=366 * 86_400_000, description="milliseconds")]
CalendarText = Annotated[
    str, Meta(min_length=1, max_length=128, description="times of the calendar, as systemd.time(7) writes them")
]


class Timer(Document, frozen=True):
    """Starts its service at times of the calendar (UTC), some time after the boot, or some time after it last ended.

    ``persistent``: a time that passed while the machine was off is made up for, once. ``random_delay_ms``: each start is
    put off by a random delay, up to this much. ``after_boot_ms`` and ``after_end_ms``: 0 means no such start.
    """

    calendar: Annotated[list[CalendarText], Meta(max_length=8)] = field(default_factory=list)
    after_boot_ms: LongMilliseconds = 0
    after_end_ms: LongMilliseconds = 0
    persistent: bool = False
    random_delay_ms: LongMilliseconds = 0
