"""When a request has all come."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import pytest
from gunicorn.config import Config
from gunicorn.http.parser import RequestParser
from hypothesis import given
from hypothesis import strategies as st

from webapp.worker import MAX_BODY_BYTES, MAX_HEAD_BYTES, RequestBuffer, TooLargeError

HEAD = b"POST /x HTTP/1.1\r\nHost: x\r\n"


def with_length(body: bytes) -> bytes:
    return HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body


def in_chunks(pieces: list[bytes]) -> bytes:
    chunks = b"".join(b"%X;a=b\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\nA: b\r\n\r\n"


_PIECES = st.lists(st.binary(min_size=1, max_size=40) | st.just(b"\r\n\r\n0\r\n\r\n"), max_size=6)


@given(pieces=_PIECES, chunked=st.booleans(), cuts=st.lists(st.integers(0, 400)), rest=st.binary(max_size=20))
def test_whole_at_its_last_byte_however_it_is_cut(
    pieces: list[bytes], chunked: bool, cuts: list[int], rest: bytes
) -> None:
    body = b"".join(pieces)
    request = in_chunks(pieces) if chunked else with_length(body)
    arriving = RequestBuffer()
    places = sorted({0, *(cut for cut in cuts if cut < len(request) - 1), len(request) - 1})
    for start, end in pairwise(places):
        arriving.add(request[start:end])
        assert not arriving.whole()
    arriving.add(request[-1:] + rest)
    assert arriving.whole()

    parser = RequestParser(Config(), iter([bytes(arriving.data)]), ("127.0.0.1", 1))
    assert next(parser).body.read() == body
    assert parser.unreader.take_buffered() == rest


@given(data=st.binary(max_size=300), chunked=st.booleans())
def test_any_bytes_after_a_head(data: bytes, chunked: bool) -> None:
    arriving = RequestBuffer(HEAD + (b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"") + data)
    with suppress(TooLargeError):
        assert arriving.whole() in (True, False)


@pytest.mark.parametrize(
    ("request_bytes", "code"),
    [
        (b"GET /" + b"a" * MAX_HEAD_BYTES, "headers_too_large"),
        (HEAD + b"A: b\r\n" * MAX_HEAD_BYTES, "headers_too_large"),
        (HEAD + b"Content-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1), "request_entity_too_large"),
        (HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", "request_entity_too_large"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nfffffff\r\n", "request_entity_too_large"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * MAX_BODY_BYTES, "request_entity_too_large"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1" + b";" * 3 * MAX_BODY_BYTES, "request_entity_too_large"),
    ],
)
def test_too_large_is_known_before_it_has_all_come(request_bytes: bytes, code: str) -> None:
    with pytest.raises(TooLargeError) as refused:
        RequestBuffer(request_bytes).whole()
    assert refused.value.code == code
