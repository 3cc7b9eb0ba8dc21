"""The handler: which functions can be one, and which arguments it takes."""

import functools
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

import msgspec
import pydantic
import pytest

from queuecast import ConfigurationError, Context, InvalidInput, Queuecast, UnknownTaskName
from queuecast.handler import Handler, Signature


class Colour(Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    y: int = 0


class Page(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)

    title: str = pydantic.Field(alias="Title")
    made: datetime
    parts: list["Page"] = []


@pytest.fixture
def queue():
    return Queuecast("memory://").queue("reports")


def bound(function, *args, **kwargs) -> dict[str, Any]:
    """What the function gets after its arguments went through JSON."""
    signature = Signature(function)
    return signature.decode(signature.bind(args, kwargs))


def flaws_of(raised) -> list[tuple[str, str]]:
    return [(flaw.pointer, flaw.detail) for flaw in raised.value.flaws]


class TestRegistering:
    def test_the_decorator_works_bare(self, queue):
        @queue.task
        def render(): ...

        assert isinstance(render, Handler)
        assert queue.handlers == {"render": render}

    def test_the_decorator_works_called(self, queue):
        @queue.task(name="draw", retries=2, timeout=9)
        def render(): ...

        assert (render.name, render.retries, render.timeout) == ("draw", 2, 9)
        assert queue.handlers == {"draw": render}

    def test_calling_a_handler_runs_the_function_here_and_now(self, queue):
        @queue.task
        def add(x: int, y: int) -> int:
            return x + y

        assert add(1, y=2) == 3

    def test_a_name_is_taken_once(self, queue):
        @queue.task
        def render(): ...

        with pytest.raises(ConfigurationError, match="'render' already"):
            queue.task(name="render")(lambda: None)

    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ({"retries": -1}, "retries"),
            ({"retries": 1.5}, "retries"),
            ({"timeout": "9"}, "timeout"),
            ({"retries": 1_001}, "retries"),
            ({"timeout": 0}, "timeout"),
            ({"timeout": 8 * 86_400}, "timeout"),
            ({"name": "a\nb"}, "name"),
        ],
    )
    def test_an_option_that_no_task_could_have_is_refused(self, queue, options, named):
        with pytest.raises(ConfigurationError, match=named):
            queue.task(**options)(lambda: None)
        assert queue.handlers == {}

    @pytest.mark.parametrize(
        "function",
        [
            lambda *args: None,
            lambda **kwargs: None,
            lambda x, /: None,
        ],
        ids=["*args", "**kwargs", "positional-only"],
    )
    def test_parameters_without_a_name_are_refused(self, queue, function):
        with pytest.raises(ConfigurationError, match="cannot be bound by name"):
            queue.task(function)

    def test_an_annotation_that_cannot_be_resolved_is_refused(self, queue):
        def render(page: "Nowhere"): ...  # noqa: F821

        with pytest.raises(ConfigurationError, match="Nowhere"):
            queue.task(render)

    @pytest.mark.parametrize("annotation", [object(), complex, range, list[range], int | list[int] | tuple[int, int]])
    def test_a_type_that_no_json_can_become_is_refused(self, queue, annotation):
        def render(page): ...

        render.__annotations__["page"] = annotation
        with pytest.raises(ConfigurationError, match="render"):
            queue.task(render)

    def test_context_comes_first_or_not_at_all(self, queue):
        def render(page: int, ctx: Context): ...

        with pytest.raises(ConfigurationError, match="Context must be its first"):
            queue.task(render)

    @pytest.mark.parametrize("thing", [functools.partial(print), type("Callable", (), {"__call__": print})(), Point])
    def test_only_functions_are_handlers(self, queue, thing):
        with pytest.raises(ConfigurationError, match="is no function"):
            queue.task(thing)

    def test_a_process_cannot_find_a_local_function(self, queue):
        def render(): ...

        with pytest.raises(ConfigurationError, match="top level"):
            queue.task(process=True)(render)


class TestBinding:
    def test_positional_and_named_arguments_meet_their_names(self):
        def render(ctx: Context, first: int, second: str, *, third: bool): ...

        assert bound(render, 1, second="b", third=True) == {"first": 1, "second": "b", "third": True}

    def test_defaults_fill_in(self):
        def render(first: int, second: list[str] = ["x"]): ...  # noqa: B006

        assert bound(render, 1) == {"first": 1, "second": ["x"]}

    def test_arguments_become_what_their_annotations_say(self):
        def render(*, point: Point, at: datetime, colour: Colour, pages: list[Page], anything, whatever: object): ...

        now = datetime.now(UTC)
        page = Page(Title="one", made=now, parts=[Page(Title="two", made=now)])
        given = {
            "point": Point(1, 2),
            "at": now,
            "colour": Colour.RED,
            "pages": [page],
            "anything": {"a": [1]},
            "whatever": 7,
        }
        assert bound(render, **given) == given

    @pytest.mark.parametrize(
        ("args", "kwargs", "pointer", "detail"),
        [
            ((), {}, "/args/first", "missing"),
            ((1,), {"third": 3}, "/args/third", "unknown"),
            (("seven",), {}, "/args/first", "Expected `int`, got `str`"),
            ((1, [1, "b"]), {}, "/args/second/1", "Expected `int`, got `str`"),
            ((1, [2], 3), {}, "/args", "takes 2 positional, 3 were given"),
            ((1,), {"first": 1}, "/args/first", "twice"),
            ((object(),), {}, "/args/first", "JSON cannot carry this object"),
            ((1, "\udcff"), {}, "/args/second", "JSON cannot carry this str"),
            ((float("nan"),), {}, "/args/first", "NaN"),
        ],
    )
    def test_a_wrong_call_is_refused_and_the_argument_named(self, args, kwargs, pointer, detail):
        def render(first: int, second: list[int] | None = None): ...

        with pytest.raises(InvalidInput) as raised:
            bound(render, *args, **kwargs)
        ((where, what),) = flaws_of(raised)
        assert where == pointer
        assert detail in what

    def test_a_pydantic_model_says_what_it_lacks(self):
        def render(page: Page): ...

        with pytest.raises(InvalidInput) as raised:
            Signature(render).decode(b'{"page":{"Title":"one"}}')
        ((where, what),) = flaws_of(raised)
        assert where == "/args/page"
        assert "made" in what

    @pytest.mark.parametrize("body", [b"", b"[]", b"7", b"{", b'{"x":1}}', b"\xff"])
    def test_a_body_that_is_no_object_is_refused(self, body):
        def render(x: int): ...

        with pytest.raises(InvalidInput):
            Signature(render).decode(body)


class TestSchema:
    def test_the_arguments_have_a_schema(self):
        def render(ctx: Context, x: int, point: Point | None = None): ...

        schema = Signature(render).schema()
        assert schema["required"] == ["x"]
        assert schema["properties"]["x"] == {"type": "integer"}
        assert schema["additionalProperties"] is False
        assert set(schema["$defs"]) == {"Point"}

    def test_references_within_a_pydantic_schema_lead_somewhere(self):
        def render(page: Page): ...

        schema = Signature(render).schema()
        assert schema["properties"]["page"] == {"$ref": "#/$defs/Page"}
        assert schema["$defs"]["Page"]["properties"]["parts"]["items"] == {"$ref": "#/$defs/Page"}

    def test_a_type_of_anything_fits_anything(self):
        def render(anything, whatever: object, raw: msgspec.Raw): ...

        assert set(Signature(render).schema()["properties"]) == {"anything", "whatever", "raw"}


class TestOptions:
    def test_options_make_another_handler_and_leave_the_first(self, queue):
        @queue.task
        def render(): ...

        render.options(delay=10)
        assert render._options != render.options(delay=10)._options

    def test_options_add_up_and_the_later_one_counts(self, queue):
        @queue.task
        def render(): ...

        chosen = render.options(delay=10, owner="ann").options(delay=20)._options
        assert (chosen.delay, chosen.owner) == (20, "ann")

    @pytest.mark.parametrize("options", [{"delay": "soon"}, {"not_before": "tomorrow-ish"}, {"retries": 1.5}])
    def test_an_option_of_the_wrong_type_is_refused_at_once(self, queue, options):
        @queue.task
        def render(): ...

        with pytest.raises(InvalidInput) as raised:
            render.options(**options)
        assert flaws_of(raised)[0][0] == f"/{next(iter(options))}"

    def test_the_decorators_retries_and_timeout_hold_unless_the_submitter_chooses(self, queue):
        @queue.task(retries=3, timeout=60)
        def render(): ...

        def prepared(**options):
            task = queue.prepare("render", msgspec.Raw(b"{}"), render.options(**options)._options)
            return task.retries, task.timeout

        assert prepared() == (3, 60)
        assert prepared(retries=0) == (0, 60)
        assert prepared(timeout=5) == (3, 5)

    def test_an_unknown_name_suggests_a_known_one(self, queue):
        @queue.task
        def render(): ...

        with pytest.raises(UnknownTaskName, match="did you mean 'render'"):
            queue.prepare("rendr", msgspec.Raw(b"{}"), render._options)
