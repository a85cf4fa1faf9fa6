"""A listener that keeps the events of loading."""

from __future__ import annotations

from esam_rt.loading.events import Building, Downloading, Event, Writing


class Events(list[Event]):
    """Give it as `on_event`."""

    def __call__(self, event: Event) -> None:
        self.append(event)

    @property
    def written(self) -> list[str]:
        return [event.file_name for event in self if isinstance(event, Writing)]

    @property
    def built(self) -> list[str]:
        return [event.engine for event in self if isinstance(event, Building) and not event.phase]

    @property
    def downloaded(self) -> list[tuple[int, int]]:
        return [(event.done_bytes, event.total_bytes) for event in self if isinstance(event, Downloading)]
