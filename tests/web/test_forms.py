"""The form and the topic judge a flight's codes alike."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flight_delays.contract import CODES, read_request
from tests.unit.test_contract import VALID
from tests.web.form import FLIGHT
from webapp.errors import InvalidError
from webapp.forms import read_flight
from webapp.services import ReferenceData


class Everything(dict[str, str]):
    """Every code is known: the form then refuses no more than the topic."""

    def __contains__(self, code: object) -> bool:
        return True


_KNOWN = ReferenceData(Everything(), Everything(), Everything(), complete=True)
_CODE = st.from_regex(r"\s?[0A-Za-z1-9\u0131\u017f\xdf]{0,6}\s?", fullmatch=True) | st.text(max_size=6)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-9, 10**5) | st.floats() | _CODE,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_CODE, inner, max_size=2),
    max_leaves=3,
)


def codes(read: Any, *arguments: Any) -> dict[str, Any] | None:
    try:
        return dict(read(*arguments).model_dump(include=set(CODES)))
    except (InvalidError, ValueError):
        return None


@settings(max_examples=500)
@given(changes=st.dictionaries(st.sampled_from(CODES), _JSON, min_size=1, max_size=2))
def test_codes_are_judged_and_read_alike(changes: dict[str, Any]) -> None:
    on_topic = codes(read_request, json.dumps(VALID | changes).encode())
    assert codes(read_flight, FLIGHT | changes, _KNOWN) == on_topic
