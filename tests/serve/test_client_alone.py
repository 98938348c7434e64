"""The client without a service: what it sends, and what it makes of answers."""

from __future__ import annotations

import httpx
import numpy as np
import pytest

from kdrift import client as client_module
from kdrift import client_request
from kdrift.client import Client, ServiceError
from kdrift.methods.presets import Preset
from kdrift.recon.plan import Plan


def test_a_service_that_is_away_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_POLL_S", 0.01)
    answers = iter([httpx.ConnectError("refused"), 503, httpx.ReadError("broken"), {"id": "x", "state": "running"},
                    502, {"id": "x", "state": "done"}])  # fmt: skip

    def answer(request: httpx.Request) -> httpx.Response:
        found = next(answers)
        if isinstance(found, Exception):
            raise found
        return httpx.Response(found) if isinstance(found, int) else httpx.Response(200, json=found)

    def made() -> Client:
        client = Client(key="a-key-of-a-file\n")
        client._http = httpx.Client(base_url="http://x/kdrift", transport=httpx.MockTransport(answer))
        return client

    with made() as client:
        assert client.wait("x")["state"] == "done"
        assert client.page("x") == "http://x/kdrift/#/jobs/x"
    monkeypatch.setattr(client_module, "AWAY_S", 0.0)
    answers = iter([503, 503, 503])
    with made() as client, pytest.raises(ServiceError, match="job x may have gone on"):
        client.wait("x")


def test_what_is_no_answer_of_a_service_is_said() -> None:
    with Client("http://x") as client:
        for answer, sentence in (
            (httpx.Response(200, text="<html>"), "answers something else"),
            (httpx.Response(307, headers={"location": "https://x/"}), "has moved: https://x/"),
            (httpx.Response(404, text="<html>"), "answered 404 Not Found"),
        ):
            client._http = httpx.Client(base_url="http://x", transport=httpx.MockTransport(lambda _, a=answer: a))  # type: ignore[misc]
            with pytest.raises(ServiceError, match=sentence):
                client.status("a")
    with pytest.raises(ValueError, match="characters that no key has") as error:
        Client("http://x", "schlüssel")
    assert "schl" not in str(error.value)


def test_options_are_sent_as_what_they_are() -> None:
    found = dict(
        client_request.flat({"plan": {"seed": np.int64(3), "preset": "1e5"}, "prior": "tiny", "slices": [1, 2]})
    )
    assert found == {"plan.seed": "3", "plan.preset": '"1e5"', "prior": "tiny", "slices": "[1, 2]"}
    with pytest.raises(TypeError, match="an option of a request is"):
        dict(client_request.flat({"plan": {"seed": object()}}))
    with pytest.raises(ValueError, match="names its preset"):
        client_request.plain(Plan(preset=Preset("annealed", {})))
