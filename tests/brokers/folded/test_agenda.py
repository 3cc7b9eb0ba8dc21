"""An agenda tells the earliest time that still holds, and does not fill up with those that do not."""

from hypothesis import given
from hypothesis import strategies as st

from queuecast.brokers.folded import agenda
from queuecast.brokers.folded.agenda import Agenda, Item


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 20)), max_size=60), st.integers(0, 5))
def test_it_tells_the_earliest_that_holds(changes, slack):
    times: dict[str, float] = {}
    made = Agenda(lambda item: times.get(item.id) == item.when)
    made._bound = slack
    for id, when in changes:
        if when > 15:
            times.pop(str(id), None)
        else:
            times[str(id)] = when
            made.add(Item(when, str(id)))
        first = made.first()
        assert (first.when if first else None) == min(times.values(), default=None)
    assert {item.id for item in made.come(7)} == {id for id, when in times.items() if when <= 7}
    assert {item.id for item in made.come(7)} == {id for id, when in times.items() if when <= 7}


def test_what_is_void_does_not_pile_up(monkeypatch):
    monkeypatch.setattr(agenda, "SLACK", 10)
    holding = {0.0: "old"}
    made = Agenda(lambda item: holding.get(item.when) == item.id)
    made.add(Item(0.0, "old"))
    for number in range(1, 5_000):
        made.add(Item(float(number), "void"))
    assert made.first() == Item(0.0, "old")
    assert len(made._heap) <= agenda.SLACK + 1_000 + 2
